#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

/// transformers as an oracle (transformers_oracle.py), and our side of the comparison.
namespace moe::testing {

/// Empty, or why the oracle cannot run.
std::string missing_oracle();

/// Runs the script; a failure is a fatal failure of the test that prints what it said.
void run_oracle(std::vector<std::string> arguments);

/// Logits [T, V] of one sequence in float32.
at::Tensor our_logits(const std::filesystem::path& model, const at::Tensor& ids);

/// Positions where the best token differs although the oracle's two best are more than `clear_gap` apart.
int64_t wrong_choices(const at::Tensor& ours, const at::Tensor& theirs, double clear_gap);

/// How far logits are from those in float64, over several passages.
struct LogitError {
  int64_t tokens = 0;
  double largest = 0;
  double mean_sum = 0;

  void add(const at::Tensor& logits, const at::Tensor& exact);
};

}  // namespace moe::testing
