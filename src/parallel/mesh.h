#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "model/moe/token_dispatcher.h"

namespace moe {

/// The ranks of a gang as edp x ep: the experts of a layer are spread over the `ep` ranks of a row (the expert axis),
/// and the rows replicate each other (the data axis). Other parameters are replicated over the whole world, which also
/// splits the data. Rank r has ep index r % ep and edp index r / ep. Owns the groups; the world is only referred to.
class Mesh {
 public:
  /// `expert_parallel` 0: 1 (every rank holds all experts). Collective. Throws InvalidArgument with the allowed values
  /// if it does not divide the world.
  Mesh(Communicator& world, int expert_parallel);

  Communicator& world() const { return world_; }
  /// The ranks that share one copy of the experts.
  Communicator& expert_group() const { return *expert_group_; }
  /// The ranks that hold the same experts.
  Communicator& replica_group() const { return *replica_group_; }

  int expert_parallel() const { return expert_group_->size(); }
  int replicas() const { return replica_group_->size(); }

  /// This rank's experts of a layer with `num_experts`, which errors name by `what`. Throws InvalidArgument if they
  /// cannot be spread evenly.
  ExpertRange owned_experts(int64_t num_experts, const char* what = "num_experts") const;
  /// Of each layer of a model, by kind of expert; none of a dense model.
  OwnedExperts owned_experts(const ModelConfig& config) const;

  /// This rank's share of `count` things split contiguously over the world: [first, first + count).
  struct Share {
    int64_t first = 0;
    int64_t count = 0;
  };
  Share share_of(int64_t count) const;

 private:
  Communicator& world_;
  std::unique_ptr<Communicator> expert_group_;
  std::unique_ptr<Communicator> replica_group_;
};

}  // namespace moe
