// What the methods of src/convert make, for other programs: docs/methods.md.
#include <gtest/gtest.h>

#include "common/file_io.h"
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
                      Case{"analytic", "analytic", "llama", 0, nullptr, nullptr, "mixtral"},
                      Case{"analytic_shared", "analytic", "llama", 2, nullptr, nullptr, "granitemoeshared"},
                      Case{"analytic_qwen2", "analytic", "qwen2", 2, nullptr, nullptr, "qwen2_moe"},
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

/// Factors of channels stand in the down projections, which every format has; a bias of channels has a place in none.
class AlignedExportTest : public ::testing::Test {
 protected:
  std::filesystem::path converted(const std::string& alignment, const std::string& kind = "llama",
                                  const std::string& method = "residual") {
    const std::filesystem::path dense = folder_ / kind, output = folder_ / (alignment + kind + method);
    if (!std::filesystem::exists(dense)) testing::write_dense_model(dense, testing::tiny_config(kind), 11);
    testing::write_calibration(folder_ / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
    v1::ConvertSpec spec = testing::method_spec(method, 6, 2, folder_ / "ids.jsonl");
    spec.mutable_calibration()->set_tokens(200);
    spec.mutable_scale()->set_alignment(alignment);
    testing::convert(spec, 7, dense, output);
    return output;
  }
  testing::TempDir folder_;
};

TEST_F(AlignedExportTest, VarianceHasAStockFormWithItsLogits) {
  const std::filesystem::path native = converted("variance");
  EXPECT_EQ(testing::export_to(native, folder_ / "stock")["format"], "granitemoeshared");
  EXPECT_TRUE(
      testing::near(testing::logits_of_directory(folder_ / "stock"), testing::logits_of_directory(native), 1e-6));
}

TEST_F(AlignedExportTest, MeansStayNative) {
  const std::filesystem::path native = converted("mean_variance");
  EXPECT_NE(testing::refusal(native, testing::export_spec()).find("its mixtures add a bias to each token's output"),
            std::string::npos);
  testing::export_to(native, folder_ / "again", testing::export_spec("native"));
  EXPECT_TRUE(at::equal(testing::logits_of_directory(folder_ / "again"), testing::logits_of_directory(native)));
}

TEST_F(AlignedExportTest, NeitherIsTheDenseModelAgain) {
  for (const char* alignment : {"variance", "mean_variance"}) {
    EXPECT_NE(testing::refusal(converted(alignment), testing::export_spec("dense")).find("(scale.alignment)"),
              std::string::npos)
        << alignment;
  }
}

/// One expert alone is a dense FFN whatever its weights; its bias has a place where the family's down bias is.
TEST_F(AlignedExportTest, ANarrowerDenseModelHoldsThem) {
  for (const auto& [alignment, kind] : {std::pair{"variance", "llama"}, {"mean_variance", "phi"}}) {
    const std::filesystem::path native = converted(alignment, kind, "pruned_random"),
                                out = folder_ / (std::string("narrow_") + kind);
    testing::export_to(native, out, testing::export_spec("dense"));
    EXPECT_TRUE(testing::near(testing::logits_of_directory(out), testing::logits_of_directory(native), 1e-6)) << kind;
  }
}

TEST_F(AlignedExportTest, AReconstructedMixtureIsNotTheDenseModelAgain) {
  const std::filesystem::path native = converted("none");
  testing::export_to(native, folder_ / "again", testing::export_spec("dense"));
  nlohmann::json config = nlohmann::json::parse(read_file(native / "config.json"));
  for (const nlohmann::json& trained : {nlohmann::json{{"steps", 10}},
                                        {{"steps", 10}, {"parameters", "all"}},
                                        {{"steps", 10}, {"parameters", "experts"}}}) {
    config["moe"]["conversion"]["reconstruction"] = trained;
    write_file_atomically(native / "config.json", config.dump());
    EXPECT_NE(testing::refusal(native, testing::export_spec("dense")).find("no longer the dense FFN"),
              std::string::npos)
        << trained;
  }
}

/// Its experts have every bit that they were cut out with.
TEST_F(AlignedExportTest, AMixtureWhoseRouterAloneWasReconstructedIs) {
  const std::filesystem::path native = converted("none");
  nlohmann::json config = nlohmann::json::parse(read_file(native / "config.json"));
  config["moe"]["conversion"]["reconstruction"] = {{"steps", 10}, {"parameters", "router"}};
  write_file_atomically(native / "config.json", config.dump());
  testing::export_to(native, folder_ / "again", testing::export_spec("dense"));
  EXPECT_TRUE(
      at::equal(testing::logits_of_directory(folder_ / "again"), testing::logits_of_directory(folder_ / "llama")));
}

}  // namespace
}  // namespace moe
