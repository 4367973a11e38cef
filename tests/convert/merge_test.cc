// Several models as the experts of one: whose tensors they are, and what their routers begin with.

#include "convert/methods/merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "convert/condition_number.h"
#include "convert/merge_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::convert;
using testing::MergeTest;
using testing::set_option;

constexpr int64_t kLayers = 2;

at::Tensor tensor_of(const fs::path& model, const std::string& name) {
  return ModelDirectory(model).tensor(name).clone();
}

std::string layer_name(int64_t layer, const std::string& part) {
  return concat("model.layers.", layer, ".", part);
}

TEST_F(MergeTest, ExpertsAreTheFfnsOfTheModelsBitForBitAndTheRestIsTheInputs) {
  const json report = convert(merge_spec({maths(), code()}, 2), 3, dense(), out());
  const std::vector<fs::path> models{dense(), maths(), code()};
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (size_t model = 0; model < models.size(); ++model) {
      for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
        const std::string expert = layer_name(layer, concat("mlp.experts.", model, ".", part, ".weight"));
        EXPECT_TRUE(at::equal(tensor_of(out(), expert),
                              tensor_of(models[model], layer_name(layer, concat("mlp.", part, ".weight")))))
            << expert;
      }
    }
    const std::string norm = layer_name(layer, "post_attention_layernorm.weight"),
                      query = layer_name(layer, "self_attn.q_proj.weight");
    EXPECT_TRUE(at::equal(tensor_of(out(), norm), tensor_of(dense(), norm)));
    EXPECT_TRUE(at::equal(tensor_of(out(), query), tensor_of(dense(), query)));
  }
  EXPECT_TRUE(at::equal(tensor_of(out(), "lm_head.weight"), tensor_of(dense(), "lm_head.weight")));

  EXPECT_EQ(ModelDirectory(out()).config().moe->expert_widths, (std::vector<int64_t>{48, 48}));
  EXPECT_FALSE(fs::exists(out() / "conversion.safetensors")) << "neurons of other models have no numbers in this one";
  EXPECT_EQ(report["source"]["digest"], ModelDirectory(dense()).digest());
  EXPECT_EQ(report["others"], json::array({{{"path", maths()}, {"digest", ModelDirectory(maths()).digest()}},
                                           {{"path", code()}, {"digest", ModelDirectory(code()).digest()}}}));
  EXPECT_EQ(json::parse(read_file(out() / "conversion.json"))["others"], report["others"]);
}

/// All experts with equal rows: the mean of the FFNs, which is a dense model whose FFNs stand beside each other, each
/// with a down projection of its share.
TEST_F(MergeTest, AllExpertsAtEqualWeightsAreTheMeanOfTheFfns) {
  convert(merge_spec({maths(), code()}, 3), 3, dense(), out());
  json config = json::parse(read_file(dense() / "config.json"));
  config["intermediate_size"] = 3 * 48;
  const ModelConfig wide = parse_model_config(config.dump(), "wide");
  Decoder mean(wide, at::kFloat, {}),
      mixture = load_decoder(ModelDirectory(out()), at::kFloat, all_experts(ModelDirectory(out()).config()));
  const at::NoGradGuard no_grad;
  for (const Parameter& parameter : mixture.parameters()) {
    if (parameter.id.part == TensorPart::kRouter) at::Tensor(parameter.value).zero_();
  }
  for (const Parameter& parameter : mean.parameters()) {
    const std::string& name = parameter.name;
    if (name.find(".mlp.") == std::string::npos) {
      at::Tensor(parameter.value).copy_(tensor_of(dense(), name));
      continue;
    }
    const bool is_down = name.find("down_proj") != std::string::npos;
    std::vector<at::Tensor> parts;
    const auto add = [&](const std::string& dense_name) {
      for (const fs::path& model : {dense(), maths(), code()}) parts.push_back(tensor_of(model, dense_name));
    };
    if (parameter.id.part == TensorPart::kGateUp) {
      add(layer_name(parameter.id.layer, "mlp.gate_proj.weight"));
      add(layer_name(parameter.id.layer, "mlp.up_proj.weight"));
    } else {
      add(name);
    }
    at::Tensor(parameter.value).copy_(at::cat(parts, is_down ? 1 : 0) * (is_down ? 1.0 / 3 : 1.0));
  }
  const TokenBatch batch = testing::random_batch({20, 7}, wide.vocab_size, 4);
  LocalDispatcher dispatcher;
  EXPECT_TRUE(testing::near(mixture.logits(mixture.forward(batch, dispatcher).hidden_TD),
                            mean.logits(mean.forward(batch, dispatcher).hidden_TD), 1e-5));
}

TEST_F(MergeTest, CopiesOfOneModelAreThatModelAtAnyTopK) {
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  for (const char* attention : {"base", "mean"}) {
    for (int top_k = 1; top_k <= 3; ++top_k) {
      v1::ConvertSpec spec = merge_spec({dense(), dense()}, top_k);
      set_option(spec, "attention", attention);
      const fs::path output = folder_ / concat(attention, top_k);
      convert(spec, 3, dense(), output);
      EXPECT_TRUE(testing::near(testing::logits_of(output, batch), testing::logits_of(dense(), batch), 1e-5))
          << attention << top_k;
    }
  }
}

/// Formed in float64 and rounded once, before, in and after the layers.
TEST_F(MergeTest, MeanAttentionIsTheMeanOfAllModels) {
  v1::ConvertSpec spec = merge_spec({maths(), code()}, 2);
  set_option(spec, "attention", "mean");
  convert(spec, 3, dense(), out());
  for (const std::string& name :
       {std::string("model.embed_tokens.weight"), std::string("model.norm.weight"), std::string("lm_head.weight"),
        layer_name(0, "input_layernorm.weight"), layer_name(1, "self_attn.q_proj.weight"),
        layer_name(1, "self_attn.o_proj.weight"), layer_name(1, "post_attention_layernorm.weight")}) {
    const at::Tensor mean = (tensor_of(dense(), name).to(at::kDouble) + tensor_of(maths(), name).to(at::kDouble) +
                             tensor_of(code(), name).to(at::kDouble)) /
                            3;
    EXPECT_TRUE(testing::near(tensor_of(out(), name), mean, 1e-7)) << name;
    EXPECT_FALSE(testing::near(tensor_of(dense(), name), mean, 1e-2)) << name;
  }
}

/// The converted stream goes through the mean attention: calibrated scales are those of the model that is written.
TEST_F(MergeTest, CalibrationSeesTheMeanAttention) {
  v1::ConvertSpec spec = merge_spec({maths()}, 2);
  spec.mutable_scale()->set_mode("least_squares");
  spec.mutable_scale()->clear_value();
  testing::add_text(spec, ids());
  const json base = convert(spec, 3, dense(), out());
  set_option(spec, "attention", "mean");
  const json mean = convert(spec, 3, dense(), folder_ / "mean");
  EXPECT_GT(std::abs(base["layers"][0]["output_scale"].get<double>() - mean["layers"][0]["output_scale"].get<double>()),
            1e-4);
}

/// What a prompt is, in double, from states that the whole model gives at once.
class PromptRows {
 public:
  explicit PromptRows(const fs::path& model)
      : directory_(model), decoder_(load_decoder(directory_, at::kDouble, {})), states_(kLayers) {}

  /// Router row of the layer. [D]
  at::Tensor row(const std::string& mode, int64_t layer, const std::vector<std::string>& positive,
                 const std::vector<std::string>& negative = {}) {
    at::Tensor row = mean(mode, layer, positive);
    if (!negative.empty()) row = row - mean(mode, layer, negative);
    return row / row.norm();
  }

 private:
  at::Tensor mean(const std::string& mode, int64_t layer, const std::vector<std::string>& prompts) {
    at::Tensor sum = at::zeros({32}, at::kDouble);
    for (const std::string& prompt : prompts) sum += of_prompt(mode, layer, prompt);
    sum /= static_cast<double>(prompts.size());
    return mode == "cheap_embed" ? sum / sum.norm() : sum;
  }

  at::Tensor of_prompt(const std::string& mode, int64_t layer, const std::string& prompt) {
    std::vector<int64_t> tokens;
    for (const char letter : prompt) tokens.push_back(letter - 'a');
    const at::Tensor tokens_T = at::tensor(tokens, at::kLong);
    if (mode == "cheap_embed")
      return directory_.tensor("model.embed_tokens.weight").to(at::kDouble).index_select(0, tokens_T).sum(0);
    LocalDispatcher dispatcher;
    ForwardOptions options;
    options.observer = [this](int64_t at_layer, LayerPoint point, const at::Tensor& values) {
      if (point == LayerPoint::kInput) states_.at(at_layer) = values;
    };
    decoder_.forward({tokens_T, {0, static_cast<int64_t>(tokens.size())}}, dispatcher, options);
    return mode == "hidden" ? states_[layer][-1] : states_[layer].mean(0);
  }

  ModelDirectory directory_;
  Decoder decoder_;
  std::vector<at::Tensor> states_;
};

TEST_F(MergeTest, RouterRowsAreWhatTheirPromptsAreBeforeTheLayer) {
  const at::NoGradGuard no_grad;
  PromptRows rows(dense());
  for (const std::string mode : {"hidden", "hidden_avg", "cheap_embed"}) {
    v1::ConvertSpec spec = merge_spec({maths(), code()}, 2);
    add_prompts(spec, mode);
    convert(spec, 3, dense(), folder_ / mode);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const at::Tensor router = tensor_of(folder_ / mode, layer_name(layer, "mlp.router.weight"));
      const at::Tensor expected = at::stack({rows.row(mode, layer, {"abc", "de"}, {"x"}),
                                             rows.row(mode, layer, {"fghij"}), rows.row(mode, layer, {"kk", "l"})});
      EXPECT_TRUE(testing::near(router, expected, 1e-5)) << mode << layer;
    }
  }
  const auto router = [this](const std::string& mode, int64_t layer) {
    return tensor_of(folder_ / mode, layer_name(layer, "mlp.router.weight"));
  };
  EXPECT_TRUE(at::equal(router("cheap_embed", 0), router("cheap_embed", 1)));
  EXPECT_FALSE(testing::near(router("hidden", 0), router("hidden", 1), 1e-2));
}

TEST_F(MergeTest, RandomRowsAreUnitNormalAndFollowTheSeed) {
  convert(merge_spec({maths(), code()}, 2), 3, dense(), out());
  convert(merge_spec({maths(), code()}, 2), 4, dense(), folder_ / "seed4");
  const at::Tensor first = tensor_of(out(), layer_name(0, "mlp.router.weight")),
                   second = tensor_of(out(), layer_name(1, "mlp.router.weight"));
  EXPECT_FALSE(at::equal(first, second));
  EXPECT_FALSE(at::equal(first, tensor_of(folder_ / "seed4", layer_name(0, "mlp.router.weight"))));
  const at::Tensor all = at::cat({first, second}).to(at::kDouble);
  EXPECT_NEAR(all.mean().item<double>(), 0, 0.25);  // 192 numbers
  EXPECT_NEAR(all.std().item<double>(), 1, 0.2);
}

/// Prompts that say the same are reported; rows of prompts that differ are not.
TEST_F(MergeTest, ConditionNumbersOfRoutersAreReported) {
  v1::ConvertSpec spec = merge_spec({maths()}, 1);
  set_option(spec, "router", "hidden");
  spec.mutable_ffn()->add_prompts()->add_positive("abcd");
  spec.mutable_ffn()->add_prompts()->add_positive("abcd");
  const json alike = convert(spec, 3, dense(), out());
  EXPECT_TRUE(alike["layers"][0]["router_condition"].is_null() ||
              alike["layers"][0]["router_condition"].get<double>() > 1e6);
  spec.mutable_ffn()->mutable_prompts(1)->set_positive(0, "wzy");
  const json apart = convert(spec, 3, dense(), folder_ / "apart");
  EXPECT_LT(apart["layers"][0]["router_condition"].get<double>(), 5);
}

TEST(ConditionNumberTest, OfMatricesThatOneCanCount) {
  EXPECT_NEAR(condition_number(at::eye(3)), 1, 1e-12);
  EXPECT_NEAR(condition_number(at::diag(at::tensor({8.0F, -2.0F}))), 4, 1e-12);
  // Singular values sqrt(3) and 1.
  EXPECT_NEAR(condition_number(at::tensor({1.0F, 0.0F, 1.0F, 0.0F, 1.0F, 1.0F}).view({2, 3})), std::sqrt(3.0), 1e-12);
  EXPECT_TRUE(std::isinf(condition_number(at::ones({2, 3}))));
  EXPECT_NEAR(condition_number(at::ones({1, 3})), 1, 1e-12);
}

TEST_F(MergeTest, RanksDoNotChangeAByte) {
  for (const std::string mode : {"hidden", "hidden_avg", "cheap_embed", "random"}) {
    v1::ConvertSpec spec = merge_spec({maths(), code()}, 2);
    set_option(spec, "attention", "mean");
    if (mode != "random") add_prompts(spec, mode);
    expect_same_files_at_any_ranks(spec, {"model.safetensors", "conversion.json", "config.json"}, mode);
  }
}

TEST_F(MergeTest, OnlyTheChosenLayersAreMerged) {
  v1::ConvertSpec spec = merge_spec({maths(), code()}, 2);
  add_prompts(spec, "hidden");
  convert(spec, 3, dense(), folder_ / "all");
  spec.mutable_ffn()->add_layers("1");
  convert(spec, 3, dense(), out());
  const std::string up = layer_name(0, "mlp.up_proj.weight"), router = layer_name(1, "mlp.router.weight");
  EXPECT_TRUE(at::equal(tensor_of(out(), up), tensor_of(dense(), up)));
  EXPECT_TRUE(at::equal(tensor_of(out(), router), tensor_of(folder_ / "all", router)))
      << "prompts go through the dense model";
}

}  // namespace
}  // namespace moe
