// The split of the analytic method costs what scipy's assignment costs, at sizes beyond those at which analytic_test.cc
// can afford an assignment of its own.
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "convert/planned_by.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/random_tensor.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using testing::random_normal;

struct Sizes {
  int64_t neurons;
  int experts, shared, marks;
  int64_t tokens;
};
void PrintTo(const Sizes& sizes, std::ostream* out) {
  *out << sizes.neurons << " in " << sizes.experts << " + " << sizes.shared;
}

/// Tokens of a few subjects, so that neurons are active together; rows of unlike lengths.
testing::PlannedAlone layer_of(const Sizes& sizes) {
  constexpr int64_t kHidden = 16, kSubjects = 6;
  const auto rows = [&](uint64_t seed) {
    return (random_normal({sizes.neurons, kHidden}, seed) * random_normal({sizes.neurons, 1}, seed + 50).exp())
        .to(at::kFloat);
  };
  const at::Tensor subjects = random_normal({kSubjects, kHidden}, 3) * 2,
                   of_token = at::arange(sizes.tokens, at::kLong).div(5, "floor").remainder(kSubjects);
  const at::Tensor x = (random_normal({sizes.tokens, kHidden}, 4) + subjects.index_select(0, of_token)).to(at::kFloat);
  testing::PlannedAlone layer({rows(1), rows(2), at::ones({kHidden, sizes.neurons})}, x, {0, sizes.tokens});
  layer.spec.mutable_ffn()->set_method("analytic");
  layer.spec.mutable_ffn()->set_experts(sizes.experts);
  layer.spec.mutable_ffn()->set_shared_experts(sizes.shared);
  (*layer.spec.mutable_ffn()->mutable_options())["marks"] = std::to_string(sizes.marks);
  return layer;
}

class AssignmentPeerTest : public ::testing::TestWithParam<Sizes> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(testing::peer_python()))
      GTEST_SKIP() << "no scipy here: " << testing::peer_python() << " is missing (deploy/install_deps.sh --peers)";
  }

  /// What the oracle says of these experts.
  nlohmann::json judged(const testing::PlannedAlone& layer, const at::Tensor& shared, const at::Tensor& experts) const {
    const std::vector<std::pair<std::string, at::Tensor>> tensors{
        {"gate", layer.ffn.gate}, {"up", layer.ffn.up}, {"x", layer.x_TD}, {"shared", shared}, {"experts", experts}};
    std::vector<SafetensorsWriter::Spec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
    SafetensorsWriter writer(folder_ / "problem.safetensors", specs);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.finish();
    const testing::ProcessResult result = testing::run_process(
        {testing::peer_python().string(), testing::source_dir() + "/tests/peer/assignment_oracle.py",
         (folder_ / "problem.safetensors").string(), std::to_string(GetParam().marks)});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    return nlohmann::json::parse(result.out);
  }

  testing::TempDir folder_;
};
INSTANTIATE_TEST_SUITE_P(Sizes, AssignmentPeerTest,
                         ::testing::Values(Sizes{96, 4, 0, 7, 200}, Sizes{540, 8, 1, 10, 300},
                                           Sizes{1500, 10, 0, 10, 512}, Sizes{1536, 15, 1, 16, 512}),
                         [](const auto& each) { return concat(each.param.neurons, "_", each.param.experts); });

TEST_P(AssignmentPeerTest, AnalyticSplitsCostWhatTheCheapestCosts) {
  const testing::PlannedAlone layer = layer_of(GetParam());
  const LayerPlan plan = layer.plan();
  std::vector<int32_t> neurons;
  for (const ExpertPlan& expert : plan.experts) {
    const std::vector<int32_t> own = neurons_in(expert);
    neurons.insert(neurons.end(), own.begin(), own.end());
  }
  const at::Tensor shared = at::tensor(neurons_in(plan.shared), at::kInt),
                   experts = at::tensor(neurons, at::kInt).view({GetParam().experts, -1});
  const nlohmann::json ours = judged(layer, shared, experts);
  std::cout << ours << "\n";
  EXPECT_TRUE(ours["shared"].get<bool>());
  EXPECT_EQ(ours["cost"].get<int64_t>(), ours["least"].get<int64_t>());
  // A split in which two experts have changed all places is dearer: the oracle tells.
  std::vector<int64_t> swapped(GetParam().experts);
  for (size_t e = 0; e < swapped.size(); ++e) swapped[e] = static_cast<int64_t>(e < 2 ? 1 - e : e);
  const nlohmann::json dearer = judged(layer, shared, experts.index_select(0, at::tensor(swapped, at::kLong)));
  EXPECT_GT(dearer["cost"].get<int64_t>(), ours["least"].get<int64_t>());
}

}  // namespace
}  // namespace moe
