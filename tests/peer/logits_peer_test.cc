// Logits against transformers on models that people use, run by the peers' Python on the same machine.
// families_peer_test.cc has small random ones of every family.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "peer/transformers_oracle.h"
#include "testing/compare.h"
#include "testing/full_run.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using testing::LogitError;
using testing::max_abs;
using testing::max_difference;
using testing::missing_oracle;
using testing::our_logits;
using testing::run_oracle;
using testing::TempDir;
using testing::wrong_choices;

constexpr double kRelative = 1e-5;  ///< of max |logit|
constexpr double kAbsolute = 2e-4;
constexpr double kClearGap = 1e-3;  ///< between the two best logits: the argmax must be the same

/// Compares with the oracle's logits and prints a row of figures.
void expect_same_logits(const std::string& name, const std::filesystem::path& model,
                        const std::filesystem::path& oracle) {
  const SafetensorsFile file(oracle);
  const at::Tensor theirs = file.tensor("logits"), ours = our_logits(model, file.tensor("ids"));
  const double difference = max_difference(ours, theirs), scale = max_abs(theirs);
  std::cout << name << ": tokens=" << ours.size(0) << " max_abs_difference=" << difference
            << " of_max_logit=" << difference / scale << " wrong_choices=" << wrong_choices(ours, theirs, kClearGap)
            << "\n";
  EXPECT_LE(difference, kRelative * scale) << name;
  EXPECT_LE(difference, kAbsolute) << name;
  EXPECT_EQ(wrong_choices(ours, theirs, kClearGap), 0) << name;
}

class TransformersLogitsTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, TransformersLogitsTest, ::testing::Values("stories260k", "babyllama-105", "base-7m"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(TransformersLogitsTest, TrainedModel) {
  if (const std::string why = missing_oracle(); !why.empty()) GTEST_SKIP() << why;
  std::filesystem::path model = std::filesystem::path(testing::source_dir() + "/examples") / GetParam();
  if (!std::filesystem::exists(model))
    model = std::filesystem::path(testing::source_dir() + "/../shared/models") / GetParam();
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "the shared models folder has no " << GetParam();
  const TempDir out;
  run_oracle({"logits", model.string(), out.path().string(), "256"});
  if (!HasFatalFailure()) expect_same_logits(GetParam(), model, out / "oracle.safetensors");
}

/// A larger model, where fp32 itself is what limits: our error against float64 beside that of transformers in fp32.
class SmolLm2Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = missing_oracle(); !why.empty()) GTEST_SKIP() << why;
    model_ = testing::smollm2_model();
    if (!std::filesystem::exists(model_ / "model.safetensors")) {
      GTEST_SKIP() << "SmolLM2-135M-Instruct is not in " << model_ << "; run: bash deploy/install_deps.sh --peers";
    }
  }

  /// Adds the errors on the ids that the oracle takes under these arguments.
  void measure(const std::string& tokens, const std::vector<std::string>& arguments = {}) {
    const TempDir out;
    std::vector<std::string> all{"logits", model_.string(), out.path().string(), tokens, "--float64"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    run_oracle(all);
    if (HasFatalFailure()) return;
    const SafetensorsFile file(out / "oracle.safetensors");
    const at::Tensor exact = file.tensor("logits64");
    ours_.add(our_logits(model_, file.tensor("ids")), exact);
    theirs_.add(file.tensor("logits"), exact);
  }

  void expect_as_exact_as_transformers(int64_t tokens) const {
    std::cout << "SmolLM2: tokens=" << ours_.tokens << " max_error ours=" << ours_.largest
              << " transformers=" << theirs_.largest << " ratio=" << ours_.largest / theirs_.largest
              << "; sum of mean errors ours=" << ours_.mean_sum << " transformers=" << theirs_.mean_sum
              << " ratio=" << ours_.mean_sum / theirs_.mean_sum << "\n";
    EXPECT_EQ(ours_.tokens, tokens);
    EXPECT_LE(ours_.mean_sum, 2 * theirs_.mean_sum);
    EXPECT_LE(ours_.largest, 2 * theirs_.largest);
  }

 private:
  std::filesystem::path model_;
  LogitError ours_, theirs_;
};

TEST_F(SmolLm2Test, IsAsExactAsTransformersOnText) {
  std::ifstream passages(testing::source_dir() + "/tests/testing/fixtures/smollm2_ids.txt");
  const int count = testing::sized(1, 3);
  std::string ids;
  for (int i = 0; i < count && std::getline(passages, ids); ++i) {
    const TempDir folder;
    std::ofstream(folder / "ids") << ids;
    measure("0", {"--ids", (folder / "ids").string()});
    if (HasFatalFailure()) return;
  }
  expect_as_exact_as_transformers(count * 192);
}

TEST_F(SmolLm2Test, IsAsExactAsTransformersOnRandomIds) {
  measure("128");
  if (!HasFatalFailure()) expect_as_exact_as_transformers(128);
}

}  // namespace
}  // namespace moe
