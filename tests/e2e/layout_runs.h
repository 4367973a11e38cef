#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace moe::testing {

/// What a short training of a small mixture (top-2 of 8) gave at one layout of ranks; the same on every rank.
struct LayoutRun {
  std::vector<double> losses;                                  ///< per step
  std::vector<std::vector<std::vector<int64_t>>> expert_load;  ///< [step][layer][expert]
  at::Tensor first_token_losses;                               ///< of all tokens of step 1, in their global order
  /// Weights and both moments (".m", ".v") of this rank by logical name, after the last step that is compared.
  std::map<std::string, at::Tensor> state;
};

/// Trains from the same weights on the same rows, spread over `world` with this expert parallelism. With
/// `checkpoint_root`, the end state is saved there as step `steps`. `kind` is a model of testing/tiny_model.h.
LayoutRun run_layout(Communicator& world, int expert_parallel, at::ScalarType dtype, int64_t steps,
                     const std::filesystem::path& checkpoint_root = {}, const std::string& kind = "llama");

/// All logical tensors of the newest checkpoint below `root`, loaded at this layout and gathered: name -> XXH3 of its
/// bytes.
std::map<std::string, std::string> load_at_layout(Communicator& world, int expert_parallel, at::ScalarType dtype,
                                                  const std::filesystem::path& root, const std::string& kind = "llama");

/// Expectations that compare a run with the single-rank run of the same type: float64 to 1e-9 with identical counts;
/// float32 with the same bits in the first forward, 1e-5 over ten steps, and counted routing flips. Weights and moments
/// after those steps, as far as `run` has them, must agree too: every expert of every layer is held to the one that a
/// single rank trained.
void expect_equal_runs(const LayoutRun& single, const LayoutRun& run, at::ScalarType dtype, const std::string& layout);

}  // namespace moe::testing
