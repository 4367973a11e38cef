// What the methods of src/convert make, for other programs: docs/methods.md.
#include <gtest/gtest.h>

#include "convert/conversion_fixture.h"
#include "export/export_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

struct Case {
  const char* name;
  const char* method;
  const char* family;
  int shared;
  const char* option;
  const char* value;
  const char* format;  ///< that `auto` takes
};

class ConvertedExportTest : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Methods, ConvertedExportTest,
    ::testing::Values(Case{"weave", "weave", "llama", 0, nullptr, nullptr, "mixtral"},
                      Case{"weave_shared", "weave", "llama", 2, nullptr, nullptr, "granitemoeshared"},
                      Case{"weave_qwen2", "weave", "qwen2", 2, nullptr, nullptr, "qwen2_moe"},
                      Case{"analytic", "analytic", "llama", 0, "router", "linear", "mixtral"},
                      Case{"analytic_shared", "analytic", "llama", 2, "router", "linear", "granitemoeshared"},
                      Case{"analytic_qwen2", "analytic", "qwen2", 2, "router", "linear", "qwen2_moe"},
                      Case{"copies", "upcycle", "llama", 0, "variant", "copy", "mixtral"},
                      Case{"noisy_copies", "upcycle", "qwen2", 0, "variant", "noise", "qwen2_moe"},
                      Case{"drop", "upcycle", "llama", 0, "variant", "drop", "mixtral"},
                      Case{"granular", "upcycle", "llama", 0, "variant", "granular", "mixtral"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_P(ConvertedExportTest, HasAStockFormWithItsLogits) {
  const auto& [name, method, family, shared, option, value, format] = GetParam();
  const testing::TempDir folder;
  testing::write_dense_model(folder / "dense", testing::tiny_config(family), 11);
  testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
  v1::ConvertSpec spec = testing::convert_spec(method, 4, 2, folder / "ids.jsonl");
  spec.mutable_calibration()->set_tokens(200);
  spec.mutable_ffn()->set_shared_experts(shared);
  if (option != nullptr) (*spec.mutable_ffn()->mutable_options())[option] = value;
  testing::convert(spec, 7, folder / "dense", folder / "converted");
  EXPECT_EQ(testing::export_to(folder / "converted", folder / "stock")["format"], format);
  EXPECT_TRUE(testing::near(testing::logits_of_directory(folder / "stock"),
                            testing::logits_of_directory(folder / "converted"), 1e-6));
}

TEST(ConvertedToDenseTest, CopiesAreNotOneDenseModel) {
  const testing::TempDir folder;
  testing::write_dense_model(folder / "dense", testing::tiny_config(), 11);
  testing::convert(testing::convert_spec("upcycle", 4, 2), 7, folder / "dense", folder / "converted");
  EXPECT_NE(testing::refusal(folder / "converted", testing::export_spec("dense")).find("48 in several"),
            std::string::npos);
}

}  // namespace
}  // namespace moe
