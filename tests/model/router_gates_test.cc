// Gates beside the linear one, and noise.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "common/error.h"
#include "model/moe/moe_layer.h"
#include "model/moe/router.h"
#include "model/moe/router_noise.h"
#include "model/tensor_specs.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/row_bits.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

struct Gate {
  const char* name;
  RouterWeights weights;
};

std::vector<Gate> gates(at::ScalarType dtype) {
  return {
      {"linear", {.weight_ED = random_normal({6, 16}, 1, dtype)}},
      {"mlp", {.weight_ED = random_normal({6, 16}, 1, dtype), .out_weight_EE = random_normal({6, 6}, 2, dtype)}},
      {"product", {.weight_ED = random_normal({6, 16}, 1, dtype), .gate_weight_ED = random_normal({6, 16}, 3, dtype)}}};
}

/// One logit, in plain loops.
double written_out(const Gate& gate, const at::Tensor& x_TD, int64_t t, int64_t e) {
  const auto product = [&](const at::Tensor& rows, int64_t row) {
    double sum = 0;
    for (int64_t d = 0; d < x_TD.size(1); ++d) sum += rows[row][d].item<double>() * x_TD[t][d].item<double>();
    return sum;
  };
  const std::string name = gate.name;
  if (name == "linear") return product(gate.weights.weight_ED, e);
  if (name == "product") {
    const double g = product(gate.weights.gate_weight_ED, e);
    return std::abs(product(gate.weights.weight_ED, e) * g / (1 + std::exp(-g)));
  }
  double sum = 0;
  for (int64_t i = 0; i < 6; ++i)
    sum += gate.weights.out_weight_EE[e][i].item<double>() * std::tanh(product(gate.weights.weight_ED, i));
  return sum;
}

TEST(RouterGateTest, LogitsAreTheFormulas) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const at::Tensor x = random_normal({7, 16}, 4, dtype);
    for (const Gate& gate : gates(dtype)) {
      const at::Tensor logits = router_logits(x, gate.weights, parse_router_gate(gate.name));
      for (int64_t t = 0; t < 7; ++t) {
        for (int64_t e = 0; e < 6; ++e)
          EXPECT_NEAR(logits[t][e].item<double>(), written_out(gate, x, t, e), dtype == at::kFloat ? 1e-4 : 1e-12)
              << gate.name;
      }
      EXPECT_EQ(router_logits(x.narrow(0, 0, 0), gate.weights, parse_router_gate(gate.name)).size(0), 0);
    }
  }
  EXPECT_THROW(parse_router_gate("tanh"), InvalidArgument);
}

TEST(RouterGateTest, GradientsAreFiniteDifferences) {
  const at::Tensor c = random_normal({7, 6}, 5);
  for (Gate& gate : gates(at::kDouble)) {
    at::Tensor x = random_normal({7, 16}, 4);
    std::vector<at::Tensor> leaves{x, gate.weights.weight_ED};
    if (gate.weights.out_weight_EE.defined()) leaves.push_back(gate.weights.out_weight_EE);
    if (gate.weights.gate_weight_ED.defined()) leaves.push_back(gate.weights.gate_weight_ED);
    const auto value = [&] { return (router_logits(x, gate.weights, parse_router_gate(gate.name)) * c).sum(); };
    for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
    value().backward();
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < leaves.size(); ++i) {
      at::Tensor flat = leaves[i].view({-1}), expected = at::zeros_like(flat);
      for (int64_t j = 0; j < flat.numel(); ++j) {
        const double was = flat[j].item<double>(), step = 1e-6;
        flat[j] = was + step;
        const double up = value().item<double>();
        flat[j] = was - step;
        expected[j] = (up - value().item<double>()) / (2 * step);
        flat[j] = was;
      }
      EXPECT_TRUE(near(leaves[i].grad().view({-1}), expected, 1e-6)) << gate.name << ", tensor " << i;
    }
  }
}

// The basis of equal bits across layouts of ranks.
TEST(RouterGateTest, ATokensBitsDoNotDependOnItsNeighbours) {
  const at::Tensor x = random_normal({64, 16}, 4, at::kFloat), draws = random_normal({64, 6}, 5);
  for (Gate& gate : gates(at::kFloat)) {
    gate.weights.noise_weight_ED = random_normal({6, 16}, 6, at::kFloat);
    const RouterOptions options{.top_k = 2, .gate = parse_router_gate(gate.name), .noise = RouterNoise::kLearned};
    const at::Tensor all = route(x, gate.weights, options, draws).logits_TE;
    int64_t differ = 0;
    for (int64_t t = 0; t < 64; ++t) {
      const at::Tensor one = route(x.narrow(0, t, 1), gate.weights, options, draws.narrow(0, t, 1)).logits_TE;
      differ += testing::rows_that_differ(one, all.narrow(0, t, 1));
    }
    EXPECT_EQ(differ, 0) << gate.name;
  }
}

TEST(RouterNoiseTest, LearnedNoiseMovesLogitsByTheDrawsTimesItsWidth) {
  const at::Tensor x = random_normal({40, 5}, 1), noise = random_normal({8, 5}, 2), draws = random_normal({40, 8}, 3);
  const RouterWeights weights{.weight_ED = random_normal({8, 5}, 4), .noise_weight_ED = noise};
  const RouterOptions options{.top_k = 2, .noise = RouterNoise::kLearned};
  const Routing noisy = route(x, weights, options, draws), quiet = route(x, weights, options);
  const at::Tensor clean = at::matmul(x, weights.weight_ED.t()),
                   width = (at::matmul(x, noise.t()).exp() + 1).log() + 0.01, z = clean + draws * width;
  EXPECT_TRUE(near(noisy.logits_TE, z, 1e-12));
  EXPECT_TRUE(near(noisy.clean_logits_TE, clean, 1e-12));
  EXPECT_TRUE(near(noisy.noise_width_TE, width, 1e-12));
  EXPECT_TRUE(at::equal(noisy.expert_ids_TK, std::get<1>(at::topk(z, 2, 1))));
  EXPECT_TRUE(near(noisy.weights_TK, at::softmax(std::get<0>(at::topk(z, 2, 1)), 1), 1e-12));
  EXPECT_TRUE(near(quiet.logits_TE, clean, 1e-12)) << "evaluation has none";
  EXPECT_GT(noisy.expert_ids_TK.ne(quiet.expert_ids_TK).sum().item<int64_t>(), 10);
}

TEST(RouterNoiseTest, GumbelNoiseMovesTheChoiceAlone) {
  const at::Tensor x = random_normal({40, 8}, 1), draws = noise_draws({}, RouterNoise::kGumbel, 0, 40, 8);
  const RouterWeights weights{at::eye(8, at::kDouble)};
  const RouterOptions options{.top_k = 1, .topk_norm = TopkNorm::kRaw, .noise = RouterNoise::kGumbel};
  const Routing noisy = route(x, weights, options, draws), quiet = route(x, weights, options);
  EXPECT_TRUE(at::equal(noisy.expert_ids_TK.flatten(), (x + draws).argmax(1)));
  EXPECT_GT(noisy.expert_ids_TK.ne(quiet.expert_ids_TK).sum().item<int64_t>(), 5);
  EXPECT_TRUE(near(noisy.weights_TK, at::softmax(x, 1).gather(1, noisy.expert_ids_TK), 1e-12));
  EXPECT_TRUE(at::equal(noisy.probabilities_TE, quiet.probabilities_TE));
  EXPECT_TRUE(at::equal(noisy.logits_TE, quiet.logits_TE));
  // With a bias the perturbed scores choose; a bias of 0 changes nothing.
  const RouterWeights biased{.weight_ED = at::eye(8, at::kDouble), .selection_bias_E = at::zeros({8}, at::kDouble)};
  EXPECT_TRUE(at::equal(route(x, biased, options, draws).expert_ids_TK, noisy.expert_ids_TK));
}

TEST(RouterNoiseTest, DrawsAreNamedBySeedStepRouterTokenAndExpert) {
  const NoiseSource source{.seed = 7, .step = 3, .first_token = 100};
  const at::Tensor all = noise_draws(source, RouterNoise::kLearned, 2, 50, 7);
  NoiseSource later = source;
  later.first_token = 120;
  EXPECT_TRUE(at::equal(noise_draws(later, RouterNoise::kLearned, 2, 30, 7), all.narrow(0, 20, 30)));
  NoiseSource seed = source, step = source;
  seed.seed = 8;
  step.step = 4;
  for (const at::Tensor& other :
       {noise_draws(seed, RouterNoise::kLearned, 2, 50, 7), noise_draws(step, RouterNoise::kLearned, 2, 50, 7),
        noise_draws(source, RouterNoise::kLearned, 3, 50, 7)}) {
    EXPECT_EQ(other.eq(all).sum().item<int64_t>(), 0);
  }
  EXPECT_EQ(noise_draws(source, RouterNoise::kLearned, 2, 0, 7).size(0), 0);
  EXPECT_FALSE(noise_draws(source, RouterNoise::kNone, 2, 50, 7).defined());
}

// llama-moe-v1 T13: what is computed again, from the same counters, is routed the same way to the bit; another step is
// not.
TEST(RouterNoiseTest, RoutingAgainGivesTheSameChoices) {
  const at::Tensor x = random_normal({40, 16}, 4, at::kFloat);
  for (const RouterNoise noise : {RouterNoise::kLearned, RouterNoise::kGumbel}) {
    for (Gate& gate : gates(at::kFloat)) {
      gate.weights.noise_weight_ED = random_normal({6, 16}, 6, at::kFloat);
      const RouterOptions options{.top_k = 2, .gate = parse_router_gate(gate.name), .noise = noise};
      const auto routed = [&](int64_t step) {
        const NoiseSource source{.seed = 7, .step = step, .first_token = 100};
        return route(x, gate.weights, options, noise_draws(source, noise, 1, 40, 6));
      };
      const Routing first = routed(3), again = routed(3), later = routed(4);
      EXPECT_TRUE(at::equal(again.expert_ids_TK, first.expert_ids_TK)) << gate.name;
      EXPECT_TRUE(at::equal(again.weights_TK, first.weights_TK)) << gate.name;
      EXPECT_TRUE(at::equal(again.logits_TE, first.logits_TE)) << gate.name;
      EXPECT_FALSE(at::equal(later.expert_ids_TK, first.expert_ids_TK)) << gate.name;
    }
  }
}

// Of 200,000 draws; the bounds are five standard errors.
TEST(RouterNoiseTest, DrawsHaveTheirMoments) {
  const at::Tensor normal = noise_draws({.seed = 1}, RouterNoise::kLearned, 0, 25000, 8),
                   gumbel = noise_draws({.seed = 1}, RouterNoise::kGumbel, 0, 25000, 8);
  EXPECT_NEAR(normal.mean().item<double>(), 0, 0.0112);
  EXPECT_NEAR(normal.square().mean().item<double>(), 1, 0.0159);
  EXPECT_NEAR((normal.select(1, 0) * normal.select(1, 1)).mean().item<double>(), 0, 0.032) << "of one block";
  EXPECT_NEAR(gumbel.mean().item<double>(), 0.5772157, 0.0144);
  EXPECT_NEAR(gumbel.var().item<double>(), 1.6449341, 0.036);
}

TEST(RouterTensorsTest, EveryGateHasItsOwn) {
  const auto names = [](const char* gate, const char* noise) {
    ModelConfig config = testing::tiny_moe_config(4, 2, 12);
    config.moe->router = gate;
    config.moe->router_noise = noise;
    // As it is written and read again.
    const ModelConfig read = parse_model_config(to_json(config).dump(), "written");
    EXPECT_EQ(read.moe->router, gate);
    EXPECT_EQ(read.moe->router_noise, noise);
    std::map<std::string, std::vector<int64_t>> routers;
    for (const TensorSpec& spec : logical_tensor_specs(read)) {
      if (spec.id.layer == 1 && is_of_router(spec.id.part)) routers[spec.name] = spec.shape;
    }
    return routers;
  };
  const std::string router = "model.layers.1.mlp.router.";
  const std::vector<int64_t> ed{4, 32}, ee{4, 4};
  using Shapes = std::map<std::string, std::vector<int64_t>>;
  EXPECT_EQ(names("linear", "none"), (Shapes{{router + "weight", ed}}));
  EXPECT_EQ(names("linear", "gumbel"), (Shapes{{router + "weight", ed}}));
  EXPECT_EQ(names("mlp", "learned"),
            (Shapes{{router + "weight", ed}, {router + "out.weight", ee}, {router + "noise.weight", ed}}));
  EXPECT_EQ(names("product", "none"), (Shapes{{router + "weight", ed}, {router + "gate.weight", ed}}));
}

TEST(RouterTensorsTest, UnknownGateAndNoiseOfAConfigAreRefused) {
  nlohmann::json json = to_json(testing::tiny_moe_config(4, 2, 12));
  json["moe"]["router"] = "tanh";
  EXPECT_THROW(parse_model_config(json.dump(), "config.json"), InvalidArgument);
  json["moe"]["router"] = "mlp";
  json["moe"]["router_noise"] = "normal";
  EXPECT_THROW(parse_model_config(json.dump(), "config.json"), InvalidArgument);
}

// llama-moe-v1 3.5: the published models, whose noise no token uses.
TEST(RouterTensorsTest, ParametersOfThePublishedModels) {
  const auto count = [](int64_t experts, int64_t top_k, const char* gate = "mlp") {
    ModelConfig config = parse_model_config(
        R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false})",
        "llama-2-7b");
    if (experts == 0) return count_parameters(config);
    MoeConfig moe;
    moe.base_model_type = "llama";
    moe.num_experts = experts;
    moe.top_k = top_k;
    moe.expert_widths.assign(32, 11008 / experts);
    moe.shared_widths.assign(32, 0);
    moe.output_scale.assign(32, 4);
    moe.router = gate;
    moe.router_noise = "learned";
    config.moe = moe;
    return count_parameters(config);
  };
  EXPECT_EQ(count(0, 0).total, 6738415616) << "dense";
  EXPECT_EQ(count(0, 0).active, 6738415616);
  EXPECT_EQ(count(16, 4).total, 6742618112);
  EXPECT_EQ(count(16, 4).active, 3494129664);
  EXPECT_EQ(count(8, 2).total, 6740514816);
  EXPECT_EQ(count(8, 2).active, 3493074944);
  EXPECT_EQ(count(16, 2).total, 6742618112);
  EXPECT_EQ(count(16, 2).active, 2953064448);
  // A linear gate has no second matrix: 32 layers of 16 x 16 or 8 x 8 fewer.
  EXPECT_EQ(count(16, 4, "linear").total, 6742618112 - 8192);
  EXPECT_EQ(count(16, 4, "linear").active, 3494129664 - 8192);
  EXPECT_EQ(count(8, 2, "linear").active, 3493074944 - 2048);
}

}  // namespace
}  // namespace moe
