// Importance against the autograd of the whole dense model, in double, over every family; and its bits over ranks.
#include "convert/importance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/row_sums.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

class ImportanceTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ImportanceTest() : ConversionTest(GetParam()), directory_(dense()), spec_(testing::convert_spec("m", 4, 2, ids())) {
    spec_.mutable_calibration()->set_tokens(300);
  }
  CalibrationText text(Communicator& world) const {
    return read_calibration_text(spec_, 3, directory_.config(), {}, world);
  }

  ModelDirectory directory_;
  v1::ConvertSpec spec_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, ImportanceTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

/// Forward, loss and backward of the whole model at once, with every parameter in the graph.
TEST_P(ImportanceTest, IsWhatAutogradOfTheWholeModelSays) {
  const auto self = make_self_communicator();
  const CalibrationText text = this->text(*self);
  Decoder decoder = load_decoder(directory_, at::kDouble, {});
  testing::require_all_gradients(decoder);
  std::map<int64_t, at::Tensor> activations;
  ForwardOptions options;
  options.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
    if (point != LayerPoint::kFfnActivations) return;
    activations[layer] = values;
    values.retain_grad();
  };
  LocalDispatcher dispatcher;
  const at::Tensor hidden = decoder.forward({text.tokens_T, text.cu_seqlens}, dispatcher, options).hidden_TD;
  decoder.token_losses(hidden, text.labels_T).sum().backward();

  // Tokens in three groups, by their place.
  const at::Tensor groups = at::arange(text.total_tokens, at::kLong).remainder(3);
  const GroupTokens by_place = [&](const LayerInputs& inputs, const std::vector<at::Tensor>& states, Communicator&) {
    EXPECT_EQ(states.size(), 3U) << "before both layers and after the last";
    EXPECT_EQ(inputs.features->ffn_inputs.local_TD.sizes(), states[inputs.layer].sizes());
    EXPECT_EQ(inputs.features->cu_seqlens, text.cu_seqlens);
    return TokenGroups{3, groups, at::ones({3, 2})};
  };
  std::vector<int64_t> steps;
  const std::vector<Importance> all = measure_importance(
      DenseSource(directory_, at::kDouble), text,
      {.spec = spec_, .seed = 3, .group_tokens = by_place, .progress = [&](int64_t done) { steps.push_back(done); }},
      *self);
  EXPECT_THAT(steps, ::testing::ElementsAre(1, 2));
  ASSERT_EQ(all.size(), 2U);
  for (const auto& [layer, h] : activations) {
    const at::Tensor worth = (h * h.grad()).detach().abs();
    for (int64_t group = 0; group < 3; ++group) {
      const at::Tensor expected = worth.index_select(0, groups.eq(group).nonzero().flatten()).sum(0);
      EXPECT_GT(expected.min().item<double>(), 0);
      EXPECT_TRUE(at::allclose(all[layer].scores_GF[group], expected, 1e-10, 0)) << layer << " " << group;
      EXPECT_EQ(all[layer].tokens_G[group].item<int64_t>(), groups.eq(group).sum().item<int64_t>());
    }
    EXPECT_TRUE(at::equal(all[layer].group_rows_GD, at::ones({3, 2})));
  }
}

/// Groups that are those of all layers are asked for once, of the last, and taken in all.
TEST_P(ImportanceTest, GroupsOfAllLayersAreMadeOnce) {
  const auto self = make_self_communicator();
  const CalibrationText text = this->text(*self);
  const auto measured = [&](bool is_of_all_layers, std::vector<int64_t>& asked) {
    const GroupTokens by_place = [&](const LayerInputs& inputs, const std::vector<at::Tensor>&, Communicator&) {
      asked.push_back(inputs.layer);
      return TokenGroups{.count = 2,
                         .ids_T = at::arange(text.total_tokens, at::kLong).remainder(2),
                         .is_of_all_layers = is_of_all_layers};
    };
    return measure_importance(DenseSource(directory_), text, {.spec = spec_, .seed = 3, .group_tokens = by_place},
                              *self);
  };
  std::vector<int64_t> once, each;
  const std::vector<Importance> all = measured(true, once), by_layer = measured(false, each);
  EXPECT_THAT(once, ::testing::ElementsAre(1));
  EXPECT_THAT(each, ::testing::ElementsAre(1, 0));
  for (const int64_t layer : {0, 1}) EXPECT_TRUE(at::equal(all[layer].scores_GF, by_layer[layer].scores_GF)) << layer;
}

/// v1 specification T5 (a), v2 B4: each token's share is what the loss changes when the neuron gives more or less
/// there.
TEST_P(ImportanceTest, IsWhatFiniteDifferencesOfTheLossSay) {
  const at::NoGradGuard no_grad;
  const auto self = make_self_communicator();
  spec_.mutable_calibration()->set_tokens(1);
  const CalibrationText text = this->text(*self);
  const Decoder decoder = load_decoder(directory_, at::kDouble, {});
  LocalDispatcher dispatcher;
  const std::vector<Importance> all =
      measure_importance(DenseSource(directory_, at::kDouble), text, {.spec = spec_, .seed = 3}, *self);
  constexpr double kStep = 1e-4;
  for (const auto& [layer, neuron] : {std::pair<int64_t, int64_t>{0, 7}, {1, 30}}) {
    double expected = 0;
    for (int64_t token = 0; token < text.total_tokens; ++token) {
      const auto loss = [&, layer = layer, neuron = neuron](double factor) {
        ForwardOptions options;
        options.neuron_mask = [&](int64_t at_layer, const at::Tensor& x) {
          at::Tensor mask = at::ones({x.size(0), 48}, at::kDouble);
          if (at_layer == layer) mask[token][neuron] = factor;
          return mask;
        };
        const at::Tensor hidden = decoder.forward({text.tokens_T, text.cu_seqlens}, dispatcher, options).hidden_TD;
        return decoder.token_losses(hidden, text.labels_T).sum().item<double>();
      };
      expected += std::abs(loss(1 + kStep) - loss(1 - kStep)) / (2 * kStep);
    }
    EXPECT_GT(expected, 1e-3);
    EXPECT_NEAR(all[layer].scores_GF[0][neuron].item<double>(), expected, 1e-4 * expected) << layer;
  }
}

/// In float, as conversions measure it; the last of five ranks may have a row or none.
TEST_P(ImportanceTest, SameBitsAtAnyNumberOfRanks) {
  const DenseSource model(directory_);
  std::vector<Importance> one;
  {
    const auto self = make_self_communicator();
    one = measure_importance(model, text(*self), {.spec = spec_}, *self);
  }
  for (const int ranks : {2, 4, 20}) {
    testing::run_ranks(ranks, [&](Communicator& world) {
      const std::vector<Importance> mine = measure_importance(model, text(world), {.spec = spec_}, world);
      for (size_t layer = 0; layer < one.size(); ++layer) {
        EXPECT_TRUE(at::equal(mine[layer].scores_GF, one[layer].scores_GF)) << ranks << " ranks, layer " << layer;
        EXPECT_TRUE(at::equal(mine[layer].tokens_G, one[layer].tokens_G));
      }
    });
  }
  EXPECT_EQ(one[0].scores_GF.sizes(), at::IntArrayRef({1, 48}));
}

TEST(RowSumsTest, SameBitsHoweverRowsAreSpread) {
  constexpr int64_t kRows = 21;
  // Numbers that float64 cannot sum in any order to the same bits.
  const at::Tensor values =
      testing::random_normal({kRows, 7}, 5) * at::pow(10.0, testing::random_normal({kRows, 7}, 6) * 5);
  const auto sum = [&](const std::vector<int64_t>& bounds) {
    at::Tensor total;
    testing::run_ranks(static_cast<int>(bounds.size()) - 1, [&](Communicator& world) {
      RowSums sums;
      for (int64_t row = bounds[world.rank()]; row < bounds[world.rank() + 1]; ++row) sums.add(row, values[row]);
      const at::Tensor mine = sums.total({7}, world, "test");
      if (world.rank() == world.size() - 1) total = mine;
    });
    return total;
  };
  const at::Tensor one = sum({0, kRows});
  EXPECT_TRUE(testing::near(one, values.sum(0), 1e-12));
  EXPECT_TRUE(at::equal(sum({0, 10, kRows}), one));
  EXPECT_TRUE(at::equal(sum({0, 0, 5, 6, 19, kRows, kRows}), one));
  EXPECT_TRUE(at::equal(sum({0, 1, 2, 3, 4, kRows}), one));
}

}  // namespace
}  // namespace moe
