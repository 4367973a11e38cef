// Nothing approximate is ever written: what no format holds is refused with every reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "export/export_fixture.h"
#include "export/export_formats.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using testing::export_spec;
using testing::ExportTest;
using ::testing::HasSubstr;
using testing::refusal;
using testing::write_mixture;

TEST_F(ExportTest, PhiHasNoStockMixture) {
  write_mixture(native(), {.family = "phi"});
  EXPECT_THAT(refusal(native(), export_spec()),
              AllOf(HasSubstr("no stock architecture holds"), HasSubstr("--format native"), HasSubstr("mixtral:"),
                    HasSubstr("granitemoeshared:"), HasSubstr("qwen2_moe:"), HasSubstr("LayerNorm"),
                    HasSubstr("in parallel"), HasSubstr("no gate"), HasSubstr("its experts have biases"),
                    HasSubstr("head has a bias"), HasSubstr("RoPE turns 4 of 8")));
  EXPECT_EQ(exit_code_for(InvalidArgument("")), ExitCode::kBadInput);
  testing::export_to(native(), out(), export_spec("native"));
}

TEST_F(ExportTest, BiasesOfExperts) {
  write_mixture(native(), {.keys = {{"mlp_bias", true}}});
  EXPECT_THAT(refusal(native(), export_spec()), HasSubstr("its experts have biases"));
}

TEST_F(ExportTest, ANamedFormatIsHeldToItsOwnReasons) {
  write_mixture(native(), {.family = "qwen2", .topk_norm = "raw", .shared = {8, 8}});
  EXPECT_THAT(refusal(native(), export_spec("mixtral")),
              AllOf(HasSubstr("mixtral does not hold"), HasSubstr("renormalises"), HasSubstr("no shared expert"),
                    HasSubstr("no biases")));
  EXPECT_THAT(refusal(native(), export_spec("granitemoeshared")), HasSubstr("renormalises"));
  EXPECT_THAT(refusal(native(), export_spec("solar_open")),
              HasSubstr("its router has softmax scores: those of solar_open are sigmoids"));
  EXPECT_THAT(refusal(native(), export_spec("mixtrel")),
              HasSubstr("known: mixtral, granitemoeshared, qwen2_moe, glm4_moe, solar_open, native, dense"));
}

TEST_F(ExportTest, GatesOfSharedExperts) {
  write_mixture(native(), {.shared = {8, 8}, .shared_gate = "softmax", .gate_rows = 2});
  EXPECT_THAT(refusal(native(), export_spec()),
              AllOf(HasSubstr("no stock architecture holds"), HasSubstr("mixtral has no shared expert"),
                    HasSubstr("(shared_gate softmax): those of granitemoeshared count in full"),
                    HasSubstr("(shared_gate softmax): qwen2_moe's is one sigmoid"),
                    HasSubstr("(shared_gate softmax): those of glm4_moe count in full")));
  testing::export_to(native(), out(), export_spec("native"));
  EXPECT_EQ(ModelDirectory(out()).config().moe->shared_gate_rows, 2);
  EXPECT_TRUE(at::equal(testing::logits_of_directory(native()), testing::logits_of_directory(out())));
}

TEST_F(ExportTest, DenseLayersAmongTheMixtures) {
  write_mixture(native(), {.widths = {12, 0}});
  EXPECT_THAT(refusal(native(), export_spec("mixtral")),
              HasSubstr("1 of its 2 layers are dense, the first of them layer 1: every layer of mixtral is a mixture"));
  EXPECT_THAT(refusal(native(), export_spec("granitemoeshared")),
              HasSubstr("every layer of granitemoeshared is a mixture"));
  EXPECT_THAT(refusal(native(), export_spec("dense")), HasSubstr("without conversion.safetensors"));
  EXPECT_EQ(refusal(native(), export_spec("qwen2_moe")), "");
  write_mixture(folder_ / "sigmoid", {.score = "sigmoid", .widths = {12, 0}});
  EXPECT_THAT(refusal(folder_ / "sigmoid", export_spec()),
              AllOf(HasSubstr("the first of them layer 1, the last layer 1: those of glm4_moe stand before all"),
                    HasSubstr("every layer of solar_open is a mixture"),
                    HasSubstr("its router has sigmoid scores: those of qwen2_moe are softmaxes")));
}

TEST_F(ExportTest, BiasesOfTheAttentionsOutput) {
  write_mixture(native(), {.score = "sigmoid", .keys = {{"attention_bias", true}}});
  EXPECT_THAT(refusal(native(), export_spec()), AllOf(HasSubstr("glm4_moe has no bias on the attention's output"),
                                                      HasSubstr("solar_open has no bias on the attention's output")));
}

TEST_F(ExportTest, HeadsThatDoNotMakeUpTheHiddenSize) {
  write_mixture(native(), {.shared = {8, 8}, .keys = {{"head_dim", 12}}});
  EXPECT_THAT(refusal(native(), export_spec()), HasSubstr("4 * 12 is not 32"));
}

TEST_F(ExportTest, SelectionBiasesOfSoftmaxes) {
  write_mixture(native(), {.selection_bias = true});
  for (const char* format : {"mixtral", "granitemoeshared", "qwen2_moe", "auto"}) {
    EXPECT_THAT(refusal(native(), export_spec(format)),
                AllOf(HasSubstr("selection biases"), HasSubstr("balance: auxiliary"), HasSubstr("score sigmoid")));
  }
  EXPECT_THAT(refusal(native(), export_spec("solar_open")), HasSubstr("its router has softmax scores"));
}

TEST_F(ExportTest, WeightsOfOneThatNoRouterGives) {
  write_mixture(native(), {.topk_norm = "unit"});
  EXPECT_THAT(refusal(native(), export_spec("mixtral")),
              HasSubstr("weights of 1 for each of 2 experts (topk_norm unit): routers of mixtral choose by"));
  write_mixture(folder_ / "biased", {.topk_norm = "unit", .score = "sigmoid", .selection_bias = true});
  EXPECT_THAT(refusal(folder_ / "biased", export_spec()),
              AllOf(HasSubstr("routers of glm4_moe give sigmoids, or sigmoids that sum to 1"),
                    HasSubstr("selection biases"), HasSubstr("its router has sigmoid scores")));
}

/// Of two layers, or the product of two: native alone keeps them, to the last bit.
TEST_F(ExportTest, RoutersThatAreNotOneLinearLayer) {
  for (const char* gate : {"mlp", "product"}) {
    const std::filesystem::path path = folder_ / gate, native = folder_ / (gate + std::string("-native"));
    write_mixture(path, {.score = "sigmoid", .router = gate});
    const auto reason = HasSubstr(concat("router ", gate, ": those of stock mixtures are one linear layer"));
    for (const std::string& format : export_formats().names()) {
      if (!export_formats().at(format).is_stock) continue;
      EXPECT_THAT(refusal(path, export_spec(format)), AllOf(HasSubstr(format + " does not hold"), reason));
    }
    EXPECT_THAT(refusal(path, export_spec()), AllOf(HasSubstr("no stock architecture holds"), reason));
    testing::export_to(path, native, export_spec("native"));
    EXPECT_EQ(ModelDirectory(native).config().moe->router, gate);
    EXPECT_TRUE(at::equal(testing::logits_of_directory(path), testing::logits_of_directory(native))) << gate;
  }
  // What the gate is decides the logits: the comparison can fail.
  write_mixture(folder_ / "linear", {.score = "sigmoid"});
  EXPECT_FALSE(
      at::equal(testing::logits_of_directory(folder_ / "linear"), testing::logits_of_directory(folder_ / "product")));
}

/// Attention of experts is nobody's but ours, whatever its feed-forward layers are.
TEST_F(ExportTest, AttentionExperts) {
  testing::MixtureSpec spec;
  spec.attention = AttentionExperts();
  spec.attention->num_experts = 2;
  spec.attention->top_k = 1;
  spec.attention->query_heads = 2;
  spec.attention->kv_heads = 1;
  spec.attention->layers = {1, 1};
  spec.attention->output_scale = {1, 1};
  write_mixture(native(), spec);
  EXPECT_THAT(refusal(native(), export_spec()), HasSubstr("attention of 2 experts: that of stock mixtures"));
  EXPECT_THAT(refusal(native(), export_spec("dense")), HasSubstr("its attention is 2 experts"));
}

TEST_F(ExportTest, FillingThatMoreThanDoublesTheExperts) {
  write_mixture(native(), {.widths = {4, 28}});
  EXPECT_EQ(refusal(native(), export_spec()), "");
  write_mixture(folder_ / "narrow", {.widths = {12, 12}});
  auto spec = export_spec();
  spec.set_pad_experts_to(256);
  EXPECT_THAT(refusal(folder_ / "narrow", spec), AllOf(HasSubstr("ratio 21.3333"), HasSubstr("--allow-padding")));
  spec.set_allow_padding(true);
  testing::export_to(folder_ / "narrow", out(), spec);
}

TEST_F(ExportTest, Float16HasNoRoomForTheGate) {
  write_mixture(native(), {.family = "qwen2"}, at::kHalf);
  auto spec = export_spec("qwen2_moe");
  spec.set_dtype("source");
  EXPECT_THAT(refusal(native(), spec), HasSubstr("float16"));
  // A learned one is there.
  write_mixture(folder_ / "learned", {.family = "qwen2", .shared = {8, 8}, .shared_gate = "sigmoid"}, at::kHalf);
  EXPECT_EQ(refusal(folder_ / "learned", spec), "");
}

/// Also where the scale is a power of two, whose products need no rounding.
TEST_F(ExportTest, AScaleThatTheTypeCannotHold) {
  for (const double scale : {0x1p130, 1e39}) {
    const std::filesystem::path path = folder_ / std::to_string(scale);
    write_mixture(path, {.scales = {scale, 1}});
    EXPECT_THAT(refusal(path, export_spec("mixtral")),
                AllOf(HasSubstr("is too large for Float"), HasSubstr("export: a value of up to")));
    EXPECT_FALSE(std::filesystem::exists(out()));
  }
}

TEST_F(ExportTest, DenseModels) {
  testing::write_dense_model(native(), testing::tiny_config(), 1);
  EXPECT_THAT(refusal(native(), export_spec()), HasSubstr("it is a dense model"));
  EXPECT_THAT(refusal(native(), export_spec("dense")), HasSubstr("it is dense already"));
}

TEST_F(ExportTest, AFolderThatExists) {
  write_mixture(native(), {});
  write_file_atomically(folder_ / "taken", "");
  EXPECT_THROW(testing::export_to(native(), folder_ / "taken"), InvalidArgument);
}

}  // namespace
}  // namespace moe
