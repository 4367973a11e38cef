// Trainings that begin with drawn weights: the baseline of LLaMA-MoE v1's comparison with a converted model.
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/model_directory.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using testing::TinyTraining;
using Options = TinyTraining::Options;

TEST(FromScratchTest, TheInputGivesTheShapeAndNothingElse) {
  TinyTraining training;
  training.spec.set_from_scratch(true);
  const Options one{.job = "one"}, other{.job = "other"};
  ASSERT_TRUE(training.run(one));
  // Another model of the same shape.
  std::filesystem::remove_all(training.folder() / "model");
  testing::write_tiny_model(training.folder() / "model", testing::tiny_moe_config(4, 2, 12), 99, at::kFloat);
  ASSERT_TRUE(training.run(other));
  training.expect_same(other, one);
  // What has learned nothing gives every token about the same probability.
  const double vocabulary = static_cast<double>(testing::tiny_config().vocab_size);
  EXPECT_NEAR(training.lines(one).front()["loss"].get<double>(), std::log(vocabulary), 0.05);
  EXPECT_LT(training.lines(one).back()["loss"], training.lines(one).front()["loss"]);
}

TEST(FromScratchTest, ResumesBitForBit) {
  TinyTraining training;
  training.spec.set_from_scratch(true);
  training.expect_resumes_bit_for_bit();
}

}  // namespace
}  // namespace moe
