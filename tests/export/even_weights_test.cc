// Several experts of weight 1, as routers of even weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "export/export_fixture.h"
#include "testing/compare.h"

namespace moe {
namespace {

using ::testing::AllOf;
using testing::export_spec;
using testing::export_to;
using testing::ExportTest;
using ::testing::HasSubstr;
using testing::logits_of_directory;
using testing::MixtureSpec;
using testing::write_mixture;

/// Of several chosen experts each counts in full: even weights of 1 / k, and down projections times k.
TEST_F(ExportTest, WeightsOfOneAsGranite) {
  int number = 0;
  for (const MixtureSpec& spec : {MixtureSpec{.top_k = 3, .topk_norm = "unit", .shared = {8, 8}, .scales = {2, 0.7}},
                                  MixtureSpec{.topk_norm = "straight_through"},
                                  MixtureSpec{.topk_norm = "unit", .score = "sigmoid", .shared = {8, 8}},
                                  MixtureSpec{.family = "qwen2", .top_k = 3, .topk_norm = "unit"}}) {
    const std::filesystem::path path = folder_ / std::to_string(++number), stock = path.string() + "-stock";
    SCOPED_TRACE(path);
    write_mixture(path, spec);
    const nlohmann::json report = export_to(path, stock);
    EXPECT_EQ(report["format"], "granitemoeshared");
    EXPECT_TRUE(testing::near(logits_of_directory(stock), logits_of_directory(path), 2e-6));
    EXPECT_THAT(report["notes"].dump(), HasSubstr("routers are multiplied by 2^-40"));
    EXPECT_THAT(report["warnings"].dump(), AllOf(HasSubstr("not exact in vLLM"), HasSubstr("not exact in llama.cpp")));
    const SafetensorsFile stored(stock / "model.safetensors"), ours(path / "model.safetensors");
    EXPECT_TRUE(stored.tensor("model.layers.0.block_sparse_moe.router.layer.weight")
                    .equal(ours.tensor("model.layers.0.mlp.router.weight") * 0x1p-40));
    EXPECT_EQ(ModelDirectory(stock).config().moe->topk_norm, "renorm");
  }
}

/// In bfloat16 only where neither 1 / k nor a product with k is rounded; a router times 2^-40 is 0 in float16.
TEST_F(ExportTest, DtypesOfWeightsOfOne) {
  const auto refused = [&](int64_t top_k, at::ScalarType dtype, const std::string& asked) {
    const std::filesystem::path path = folder_ / concat("top", top_k, "-", at::toString(dtype), "-", asked);
    write_mixture(path, {.top_k = top_k, .topk_norm = "unit"}, dtype);
    auto spec = export_spec();
    spec.set_dtype(asked);
    return testing::refusal(path, spec);
  };
  EXPECT_EQ(refused(2, at::kFloat, "bfloat16"), "");
  EXPECT_EQ(refused(2, at::kBFloat16, "source"), "");
  EXPECT_THAT(refused(3, at::kFloat, "bfloat16"),
              AllOf(HasSubstr("weights of 1/3 and down projections times 3"), HasSubstr("choose dtype float32")));
  EXPECT_THAT(refused(3, at::kBFloat16, "source"), HasSubstr("choose dtype float32"));
  EXPECT_EQ(refused(3, at::kBFloat16, "float32"), "");
  EXPECT_THAT(refused(2, at::kHalf, "source"), HasSubstr("which is 0 in float16: choose dtype float32"));
}

/// A model may mix types: those of routers and down projections decide, whatever stands first in the files.
TEST_F(ExportTest, TypesOfRoutersAndDownProjectionsDecide) {
  const auto refused = [&](int64_t top_k, const std::string& part, at::ScalarType dtype) {
    const std::filesystem::path path = folder_ / concat("top", top_k, part, at::toString(dtype));
    write_mixture(path, {.top_k = top_k, .topk_norm = "unit"});
    testing::store_in(path, part, dtype);
    auto spec = export_spec();
    spec.set_dtype("source");
    return testing::refusal(path, spec);
  };
  EXPECT_THAT(refused(2, "layers.1.mlp.router.weight", at::kHalf), HasSubstr("which is 0 in float16"));
  EXPECT_EQ(refused(2, "layers.1.mlp.experts.0.down_proj", at::kHalf), "");
  EXPECT_EQ(refused(2, "layers.1.mlp.router.weight", at::kBFloat16), "");
  EXPECT_THAT(refused(3, "layers.1.mlp.experts.0.down_proj", at::kBFloat16), HasSubstr("which 16 bits round"));
  EXPECT_THAT(refused(3, "layers.1.mlp.experts.0.down_proj", at::kHalf), HasSubstr("which 16 bits round"));
  EXPECT_EQ(refused(3, "embed_tokens", at::kHalf), "");
}

}  // namespace
}  // namespace moe
