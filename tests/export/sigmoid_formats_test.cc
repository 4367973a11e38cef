// glm4_moe and solar_open: sigmoid scores, selection biases, a factor of the routed sum.
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
using testing::write_mixture;

nlohmann::json stored_json(const std::filesystem::path& path) {
  return nlohmann::json::parse(read_file(path));
}

TEST_F(ExportTest, NamesOfGlm4MoeAndSolarOpen) {
  write_mixture(native(),
                {.experts = 2, .score = "sigmoid", .selection_bias = true, .widths = {0, 12}, .shared = {0, 8}});
  const nlohmann::json report = export_to(native(), out());
  const SafetensorsFile stored(out() / "model.safetensors"), ours(native() / "model.safetensors");
  const std::string mlp = "model.layers.1.mlp.";
  EXPECT_TRUE(stored.tensor(mlp + "gate.weight").equal(ours.tensor(mlp + "router.weight")));
  EXPECT_TRUE(stored.tensor(mlp + "gate.e_score_correction_bias").equal(ours.tensor(mlp + "router.selection_bias")));
  EXPECT_TRUE(stored.tensor(mlp + "experts.1.up_proj.weight").equal(ours.tensor(mlp + "experts.1.up_proj.weight")));
  const at::Tensor down = stored.tensor(mlp + "shared_experts.down_proj.weight");
  EXPECT_EQ(down.sizes(), (std::vector<int64_t>{32, 12}));
  EXPECT_TRUE(down.slice(1, 0, 8).equal(ours.tensor(mlp + "shared_expert.down_proj.weight")));
  EXPECT_EQ(down.slice(1, 8).count_nonzero().item<int64_t>(), 0);
  const std::string first = "model.layers.0.mlp.up_proj.weight";
  EXPECT_TRUE(stored.tensor(first).equal(ours.tensor(first)));
  const nlohmann::json config = stored_json(out() / "config.json");
  EXPECT_EQ(config["first_k_dense_replace"], 1);
  EXPECT_EQ(config["n_shared_experts"], 1);
  EXPECT_EQ(config["partial_rotary_factor"], 1.0);
  EXPECT_EQ(config["use_qk_norm"], false);
  EXPECT_THAT(report["notes"].dump(), AllOf(HasSubstr("filled with zeros from 8 to 12"), HasSubstr("first_k_dense")));
  EXPECT_THAT(report["warnings"].dump(), HasSubstr("not exact in llama.cpp"));
}

/// A bias decides between scores that bfloat16 does not tell apart, in stock files too.
TEST_F(ExportTest, SelectionBiasesOfStockFilesAreNotRounded) {
  write_mixture(native(), {.score = "sigmoid", .selection_bias = true, .scales = {2, 2}});
  v1::ExportSpec spec = export_spec("solar_open");
  spec.set_dtype("bfloat16");
  const nlohmann::json report = export_to(native(), out(), spec);
  const std::string mlp = "model.layers.0.mlp.";
  const at::Tensor stored = SafetensorsFile(out() / "model.safetensors").tensor(mlp + "gate.e_score_correction_bias");
  EXPECT_EQ(stored.scalar_type(), at::kFloat);
  EXPECT_TRUE(stored.equal(SafetensorsFile(native() / "model.safetensors").tensor(mlp + "router.selection_bias")));
  EXPECT_EQ(stored_json(out() / "config.json")["routed_scaling_factor"], 2.0);
  EXPECT_EQ(stored_json(out() / "config.json")["n_shared_experts"], 1);
  EXPECT_THAT(report["warnings"].dump(), HasSubstr("not exact in transformers 4.5x: it has no solar_open"));
  const ModelDirectory imported(out());
  EXPECT_EQ(imported.config().moe->shared_widths, (std::vector<int64_t>{0, 0})) << "the dummy is gone";
  EXPECT_EQ(imported.config().moe->output_scale, (std::vector<double>{2, 2}));
  EXPECT_TRUE(imported.config().moe->has_selection_bias);
}

TEST_F(ExportTest, BiasesOfZeroAreNone) {
  write_mixture(native(), {.score = "sigmoid"});
  export_to(native(), out());
  const at::Tensor stored =
      SafetensorsFile(out() / "model.safetensors").tensor("model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(stored.sizes(), (std::vector<int64_t>{4}));
  EXPECT_EQ(stored.count_nonzero().item<int64_t>(), 0);
  EXPECT_FALSE(ModelDirectory(out()).config().moe->has_selection_bias);
}

}  // namespace
}  // namespace moe
