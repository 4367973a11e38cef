#include "model/moe/mixture_view.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/decoder.h"
#include "model/ops.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

class MixtureViewTest : public ::testing::Test {
 protected:
  MixtureViewTest() : decoder_(config(), at::kDouble, all_experts(config())) { testing::fill_random(decoder_, 3); }

  static ModelConfig config() {
    ModelConfig config = testing::with_dense_layer(testing::tiny_moe_config(4, 3, 12, 8), 0);
    config.moe->output_scale[1] = 1.5;
    return config;
  }

  Decoder decoder_;
  LocalDispatcher dispatcher_;
  TokenBatch batch_ = testing::random_batch({5, 1, 9}, 61, 4);
};

TEST_F(MixtureViewTest, WeighedOutputsOfTheChosenExpertsAreWhatTheMixtureGave) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> layers;
  ForwardOptions options;
  options.mixture_observer = [&](const MixtureView& view) {
    layers.push_back(view.layer);
    const at::Tensor outputs_TKD = chosen_expert_outputs(view);
    EXPECT_EQ(outputs_TKD.sizes(), (std::vector<int64_t>{15, 3, 32}));
    const at::Tensor routed = (outputs_TKD * view.routing.weights_TK.unsqueeze(2)).sum(1) * 1.5;
    EXPECT_TRUE(testing::near(routed + feed_forward(*view.weights.shared, view.x_TD), view.y_TD, 1e-12));
  };
  decoder_.forward(batch_, dispatcher_, options);
  EXPECT_EQ(layers, std::vector<int64_t>{1});
}

// Experts of unlike widths: neurons that the narrow ones have not are zeros.
TEST_F(MixtureViewTest, ActivationsOfTheChosenExpertsAreThoseOfTheirNeurons) {
  const at::NoGradGuard no_grad;
  ModelConfig uneven = config();
  uneven.moe->set_expert_widths(1, {12, 5, 12, 9});
  Decoder decoder(uneven, at::kDouble, all_experts(uneven));
  testing::fill_random(decoder, 3);
  int seen = 0;
  ForwardOptions options;
  options.mixture_observer = [&](const MixtureView& view) {
    const ExpertActivations chosen = chosen_expert_activations(view);
    ASSERT_EQ(chosen.experts.count, 4);
    ASSERT_EQ(chosen.rows_RI.sizes(), (std::vector<int64_t>{15 * 3, 12}));
    int64_t first = 0;
    for (int64_t e = 0; e < 4; ++e) {
      const at::Tensor tokens = (view.routing.expert_ids_TK == e).any(1).nonzero().flatten();
      const at::Tensor gate_up = view.weights.gate_up[e];
      const at::Tensor rows = chosen.rows_RI.narrow(0, first, tokens.size(0));
      EXPECT_EQ(chosen.rows_per_expert[e].item<int64_t>(), tokens.size(0));
      const FeedForwardWeights expert{gate_up.narrow(0, 0, 12), gate_up.narrow(0, 12, 12), {}};
      EXPECT_TRUE(testing::near(rows, neuron_activations(expert, view.x_TD.index_select(0, tokens)), 1e-12));
      const int64_t width = uneven.moe->expert_width(1, e);
      EXPECT_EQ(rows.narrow(1, width, 12 - width).abs().sum().item<double>(), 0);
      const at::Tensor gates = ops::linear(view.x_TD.index_select(0, tokens), expert.gate);
      EXPECT_TRUE(testing::near(chosen.gates_RI.narrow(0, first, tokens.size(0)), gates, 1e-12));
      first += tokens.size(0);
    }
    ++seen;
  };
  decoder.forward(batch_, dispatcher_, options);
  EXPECT_EQ(seen, 1);
}

TEST_F(MixtureViewTest, LookingChangesNoBitAndKeepsNoRouting) {
  const at::NoGradGuard no_grad;
  ForwardOptions options;
  options.mixture_observer = [](const MixtureView& view) { chosen_expert_outputs(view); };
  const DecoderOutput seen = decoder_.forward(batch_, dispatcher_, options),
                      unseen = decoder_.forward(batch_, dispatcher_);
  EXPECT_TRUE(at::equal(seen.hidden_TD, unseen.hidden_TD));
  ASSERT_EQ(seen.router.size(), 1U);
  EXPECT_FALSE(seen.router[0].routing.expert_ids_TK.defined());
  options.keeps_routing = true;
  EXPECT_TRUE(decoder_.forward(batch_, dispatcher_, options).router[0].routing.expert_ids_TK.defined());
}

}  // namespace
}  // namespace moe
