#include "parallel/mesh.h"

#include <numeric>

#include "comm/agreement.h"
#include "common/divisors.h"
#include "common/error.h"

namespace moe {

Mesh::Mesh(Communicator& world, int expert_parallel) : world_(world) {
  const int ep = expert_parallel == 0 ? 1 : expert_parallel;
  if (ep < 0 || world.size() % ep != 0) {
    throw_agreed<InvalidArgument>(concat("expert_parallel ", ep, " does not divide the ", world.size(),
                                         " ranks; use one of ", divisors_of(world.size())));
  }
  expert_group_ = world.split(world.rank() / ep, "mesh expert group");
  replica_group_ = world.split(world.rank() % ep, "mesh replica group");
}

ExpertRange Mesh::owned_experts(int64_t num_experts, const char* what) const {
  if (num_experts % expert_parallel() != 0) {
    throw_agreed<InvalidArgument>(concat("expert_parallel ", expert_parallel(), " does not divide ", what, " ",
                                         num_experts, "; with ", world_.size(), " ranks use one of ",
                                         divisors_of(std::gcd(num_experts, int64_t{world_.size()}))));
  }
  const int64_t count = num_experts / expert_parallel();
  return {expert_group_->rank() * count, count};
}

OwnedExperts Mesh::owned_experts(const ModelConfig& config) const {
  if (!config.moe) return {};
  OwnedExperts owned{.ffn = owned_experts(config.moe->num_experts)};
  if (config.moe->attention)
    owned.attention = owned_experts(config.moe->attention->num_experts, "attention.num_experts");
  return owned;
}

Mesh::Share Mesh::share_of(int64_t count) const {
  const int64_t begin = count * world_.rank() / world_.size(), end = count * (world_.rank() + 1) / world_.size();
  return {begin, end - begin};
}

}  // namespace moe
