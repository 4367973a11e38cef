#include "peer/transformers_oracle.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/subprocess.h"

namespace moe::testing {

std::string missing_oracle() {
  return std::filesystem::exists(peer_python())
             ? ""
             : concat("no transformers here: ", peer_python().string(), " is missing (deploy/install_deps.sh --peers)");
}

void run_oracle(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {peer_python().string(), source_dir() + "/tests/peer/transformers_oracle.py"});
  const ProcessResult result = run_process(arguments);
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
}

at::Tensor our_logits(const std::filesystem::path& model, const at::Tensor& ids) {
  const ModelDirectory directory(model);
  const Decoder decoder = load_decoder(directory, at::kFloat, {0, 0});
  const at::NoGradGuard no_grad;
  LocalDispatcher dispatcher;
  const int64_t tokens = ids.size(0);
  return decoder.logits(decoder.forward({ids, {0, tokens}}, dispatcher).hidden_TD);
}

int64_t wrong_choices(const at::Tensor& ours, const at::Tensor& theirs, double clear_gap) {
  const at::Tensor best = std::get<0>(theirs.topk(2, 1));
  const at::Tensor is_clear = (best.select(1, 0) - best.select(1, 1)).gt(clear_gap);
  return (ours.argmax(1).ne(theirs.argmax(1)) & is_clear).sum().item<int64_t>();
}

void LogitError::add(const at::Tensor& logits, const at::Tensor& exact) {
  const at::Tensor error = (logits.to(at::kDouble) - exact).abs();
  tokens += error.size(0);
  largest = std::max(largest, error.max().item<double>());
  mean_sum += error.mean().item<double>();
}

}  // namespace moe::testing
