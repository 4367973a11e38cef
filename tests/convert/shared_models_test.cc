// Real dense models (the shared models folder; skipped where it is absent).

#include <gtest/gtest.h>

#include <filesystem>

#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "testing/compare.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::convert;

const fs::path kModels = fs::path(testing::source_dir()) / ".." / "shared" / "models";

class RealModelTest : public ::testing::TestWithParam<std::tuple<const char*, int, std::string>> {
 protected:
  void SetUp() override {
    if (!fs::exists(model())) GTEST_SKIP() << model() << " is not on this machine";
    const std::string reason = testing::no_partition_of(method(), ModelDirectory(model()).config());
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  fs::path model() const { return kModels / std::get<0>(GetParam()); }
  int experts() const { return std::get<1>(GetParam()); }
  const std::string& method() const { return std::get<2>(GetParam()); }

  testing::TempDir folder_;
};

TEST_P(RealModelTest, AllExpertsAtScaleNAreTheDenseModel) {
  const ModelConfig config = ModelDirectory(model()).config();
  v1::ConvertSpec spec = testing::convert_spec(method(), experts(), experts());
  *spec.mutable_ffn() = testing::sizes_of(method(), config.intermediate_size, experts(), experts()).value();
  testing::write_calibration(folder_ / "ids.jsonl", 20, config.vocab_size, 6);
  testing::give_needed_text(spec, folder_ / "ids.jsonl");
  spec.mutable_calibration()->set_tokens(500);
  testing::count_all_alike(spec);
  convert(spec, 3, model(), folder_ / "out");
  const TokenBatch batch = testing::random_batch({100, 56}, config.vocab_size, 4);
  const at::Tensor expected = testing::logits_of(model(), batch), actual = testing::logits_of(folder_ / "out", batch);
  std::cout << "max |logit| " << testing::max_abs(expected) << ", max |difference| "
            << testing::max_difference(actual, expected) << "\n";
  EXPECT_TRUE(testing::near(actual, expected, 1e-5));
  EXPECT_TRUE(fs::exists(folder_ / "out" / "tokenizer.model"));
}

INSTANTIATE_TEST_SUITE_P(Models, RealModelTest,
                         ::testing::Combine(::testing::Values("base-7m", "stories260k"), ::testing::Values(2, 4),
                                            ::testing::ValuesIn(conversion_methods().names())),
                         [](const auto& each) {
                           std::string name = std::string(std::get<0>(each.param)) + "_" +
                                              std::to_string(std::get<1>(each.param)) + "_" + std::get<2>(each.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace moe
