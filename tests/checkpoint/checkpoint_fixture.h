#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "model/decoder.h"

namespace moe::testing {

/// Ranks, by how many hold parts of the experts and how many hold the same.
struct CheckpointLayout {
  int expert_parallel;
  int replicas;
  int ranks() const { return expert_parallel * replicas; }
};

/// What rank `rank` of a layout holds: experts by rank modulo ep, moments of its parameters.
struct RankState {
  RankState(int rank, const CheckpointLayout& layout, uint64_t seed, at::ScalarType dtype = at::kFloat);
  std::vector<TensorRange> ranges();

  bool writes_dense, writes_experts;
  Decoder decoder;
  std::vector<at::Tensor> first, second;
};

/// Saves what all ranks of the layout hold.
void save(const std::filesystem::path& root, const CheckpointLayout& layout, int64_t step, int attempt, uint64_t seed,
          int keep = 5);

/// Digest of every logical tensor that any rank of the layout holds after loading; replicas must agree.
std::map<std::string, std::string> load(const std::filesystem::path& root, const CheckpointLayout& layout,
                                        nlohmann::json* scalars = nullptr);

/// All files of a checkpoint.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder);

}  // namespace moe::testing
