// Importance against the autograd of the whole dense model, in double, over every family; and its bits over ranks.
#include "convert/importance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/neuron_scores.h"
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

  /// The dense model with its gradients, all in double, after forward and backward of the text at once; the loss is the
  /// sum over tokens, each times its weight where there are weights.
  struct WholeModel {
    std::map<int64_t, at::Tensor> activations;  ///< by layer, with gradients
    std::map<std::string, at::Tensor> weights, gradients;
  };
  WholeModel differentiated(const CalibrationText& text, const at::Tensor& weights_T = {}) const {
    Decoder decoder = load_decoder(directory_, at::kDouble, {});
    testing::require_all_gradients(decoder);
    WholeModel whole;
    ForwardOptions options;
    options.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
      if (point != LayerPoint::kFfnActivations) return;
      whole.activations[layer] = values;
      values.retain_grad();
    };
    LocalDispatcher dispatcher;
    const at::Tensor hidden = decoder.forward({text.tokens_T, text.cu_seqlens}, dispatcher, options).hidden_TD;
    const at::Tensor losses = decoder.token_losses(hidden, text.labels_T);
    (weights_T.defined() ? losses * weights_T : losses).sum().backward();
    for (const Parameter& parameter : decoder.parameters()) {
      whole.weights[parameter.name] = parameter.value.detach();
      whole.gradients[parameter.name] = parameter.value.grad();
    }
    return whole;
  }

  /// Of a group for each token: what it alone adds to the importance of every neuron.
  std::vector<Importance> measured_by_token(const CalibrationText& text) {
    const GroupTokens each = [&](const LayerInputs&, const std::vector<at::Tensor>&, Communicator&) {
      return TokenGroups{.count = text.total_tokens, .ids_T = at::arange(text.total_tokens, at::kLong)};
    };
    return measure_importance(DenseSource(directory_, at::kDouble), text,
                              {.spec = spec_, .seed = 3, .group_tokens = each}, *make_self_communicator());
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
  const std::map<int64_t, at::Tensor> activations = differentiated(text).activations;

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

std::vector<ImportanceMeasure> other_measures(const std::string& loss) {
  std::vector<ImportanceMeasure> measures;
  for (const char* worth : {"change", "gradient"}) {
    for (const char* kernel : {"l1_norm", "l2_norm", "plain"}) {
      for (const char* accumulate : {"tokens", "total"}) measures.push_back({loss, worth, kernel, accumulate});
    }
  }
  return measures;
}

/// Losses are means over each document's targets; what is summed is a square, or keeps its sign, is the gradient alone,
/// or becomes so in the end.
TEST_P(ImportanceTest, OtherMeasuresAreWhatAutogradSays) {
  const auto self = make_self_communicator();
  const CalibrationText text = this->text(*self);
  at::Tensor weights_T = at::zeros({text.total_tokens}, at::kDouble);
  std::set<int64_t> lengths;
  for (size_t s = 0; s + 1 < text.cu_seqlens.size(); ++s) {
    const at::Tensor labels = text.labels_T.slice(0, text.cu_seqlens[s], text.cu_seqlens[s + 1]);
    const int64_t targets = labels.ne(-100).sum().item<int64_t>();
    lengths.insert(targets);
    weights_T.slice(0, text.cu_seqlens[s], text.cu_seqlens[s + 1])
        .fill_(1.0 / std::max(1.0, static_cast<double>(targets)));
  }
  ASSERT_GT(lengths.size(), 3U) << "documents of one length would not tell";
  for (const char* loss : {"sum", "mean"}) {
    const std::map<int64_t, at::Tensor> activations =
        differentiated(text, loss == std::string("mean") ? weights_T : at::Tensor()).activations;
    for (const ImportanceMeasure& measure : other_measures(loss)) {
      SCOPED_TRACE(concat("loss=", loss, measure.name()));
      const auto by_kernel = [&measure](const at::Tensor& values) {
        return measure.kernel == "plain" ? values : measure.kernel == "l2_norm" ? values.square() : values.abs();
      };
      const std::vector<Importance> all = measure_importance(DenseSource(directory_, at::kDouble), text,
                                                             {.spec = spec_, .seed = 3, .measure = measure}, *self);
      for (const auto& [layer, h] : activations) {
        const at::Tensor worth = measure.worth == "gradient" ? h.grad() : (h * h.grad()).detach(),
                         wanted = measure.accumulate == "total" ? by_kernel(worth.sum(0)) : by_kernel(worth).sum(0);
        EXPECT_TRUE(at::allclose(all[layer].scores_GF[0], wanted, 1e-7, 1e-12)) << layer;
      }
    }
  }
}

/// The same as two groups of tokens, those of even rows and those of odd ones, say; at any number of ranks.
TEST_P(ImportanceTest, HalvesAreEvenAndOddRows) {
  const auto self = make_self_communicator();
  const CalibrationText text = this->text(*self);
  ASSERT_GT(text.rows(), 3);
  at::Tensor parity_T = at::empty({text.total_tokens}, at::kLong);
  for (int64_t row = 0; row < text.rows(); ++row)
    parity_T.slice(0, text.row_begin[row], text.row_begin[row + 1]).fill_(row % 2);
  const GroupTokens by_parity = [&](const LayerInputs&, const std::vector<at::Tensor>&, Communicator&) {
    return TokenGroups{.count = 2, .ids_T = parity_T};
  };
  const DenseSource model(directory_);
  const std::vector<Importance> halves =
                                    measure_importance(model, text, {.spec = spec_, .group_tokens = by_parity}, *self),
                                whole = measure_importance(model, text, {.spec = spec_}, *self);
  for (const int64_t layer : {0, 1}) {
    const at::Tensor scores = halves[layer].scores_GF;
    EXPECT_NEAR(whole[layer].halves_correlation, rank_correlation(scores.narrow(0, 0, 1), scores.narrow(0, 1, 1)),
                1e-9);
    EXPECT_GT(whole[layer].halves_correlation, 0);
    EXPECT_LT(whole[layer].halves_correlation, 1);
  }
  testing::run_ranks(2, [&](Communicator& world) {
    const std::vector<Importance> mine = measure_importance(model, this->text(world), {.spec = spec_}, world);
    for (const int64_t layer : {0, 1}) EXPECT_EQ(mine[layer].halves_correlation, whole[layer].halves_correlation);
  });
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
  const std::vector<Importance> all = measured_by_token(text);
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
      const double change = std::abs(loss(1 + kStep) - loss(1 - kStep)) / (2 * kStep);
      EXPECT_NEAR(all[layer].scores_GF[token][neuron].item<double>(), change, 1e-8) << layer << ", token " << token;
      expected += change;
    }
    EXPECT_GT(expected, 1e-3);
    EXPECT_NEAR(all[layer].scores_GF.select(1, neuron).sum().item<double>(), expected, 1e-4 * expected) << layer;
  }
}

/// v1 specification T5 (b) and (c): without absolute values the shares sum to what a weight times its gradient does, by
/// the column of the down projection as by the row (and bias) of up; with them to as much or more.
TEST_P(ImportanceTest, SignedSumsAreThoseOfWeightsTimesTheirGradients) {
  const auto self = make_self_communicator();
  const CalibrationText text = this->text(*self);
  const WholeModel whole = differentiated(text);
  const std::vector<Importance> all =
      measure_importance(DenseSource(directory_, at::kDouble), text, {.spec = spec_, .seed = 3}, *self);
  const ModelConfig& config = directory_.config();
  for (const auto& [layer, h] : whole.activations) {
    const auto product = [&, layer = layer](TensorId id) {
      const std::string name = tensor_name(config, id);
      return whole.weights.at(name) * whole.gradients.at(name);
    };
    const at::Tensor signed_sum = (h * h.grad()).detach().sum(0), by_down = product({TensorPart::kDown, layer}).sum(0);
    EXPECT_TRUE(testing::near(by_down, signed_sum, 1e-10)) << layer;
    if (config.is_gated) {  // only then is h linear in up
      at::Tensor by_up = product({TensorPart::kUp, layer}).sum(1);
      const TensorId bias = TensorId{TensorPart::kUp, layer}.bias();
      if (whole.weights.contains(tensor_name(config, bias))) by_up = by_up + product(bias);
      EXPECT_TRUE(testing::near(by_up, signed_sum, 1e-10)) << layer;
    }
    const at::Tensor v = all[layer].scores_GF[0];
    EXPECT_TRUE((v - by_down.abs()).ge(-1e-10 * testing::max_abs(v)).all().item<bool>()) << layer;
    EXPECT_GT(v.sum().item<double>(), 1.5 * by_down.abs().sum().item<double>()) << "no signs differ";
  }
}

/// v1 specification T5 (d): what no target and no later token depends on is worth nothing, to the bit.
TEST_P(ImportanceTest, ALastPositionWithoutTargetIsWorthNothing) {
  CalibrationText text = this->text(*make_self_communicator());
  std::vector<int64_t> last;
  for (size_t s = 1; s < text.cu_seqlens.size(); ++s) last.push_back(text.cu_seqlens[s] - 1);
  ASSERT_GT(last.size(), 3U);
  text.labels_T = text.labels_T.clone();
  for (const int64_t token : last) text.labels_T[token] = -100;
  const std::vector<Importance> all = measured_by_token(text);
  for (size_t layer = 0; layer < 2; ++layer) {
    const at::Tensor of_token = all[layer].scores_GF.sum(1);
    for (int64_t token = 0; token < text.total_tokens; ++token) {
      const bool is_last = std::find(last.begin(), last.end(), token) != last.end();
      EXPECT_EQ(of_token[token].item<double>() == 0, is_last) << "layer " << layer << ", token " << token;
    }
  }
}

/// v1 specification T5 (e): documents each in a row of its own, as they were packed, or all in one, which is what
/// micro-batches are here.
TEST_P(ImportanceTest, DoesNotDependOnTheRowsThatDocumentsLieIn) {
  const auto self = make_self_communicator();
  spec_.mutable_calibration()->set_tokens(600);
  CalibrationText text = this->text(*self);
  const std::vector<int64_t> packed = text.row_begin;
  const auto measured = [&](const std::vector<int64_t>& rows) {
    text.row_begin = rows;
    return measure_importance(DenseSource(directory_), text, {.spec = spec_, .seed = 3}, *self);
  };
  const std::vector<Importance> expected = measured(packed);
  for (const std::vector<int64_t>& rows : {text.cu_seqlens, std::vector<int64_t>{0, text.total_tokens}}) {
    ASSERT_NE(rows.size(), packed.size());
    const std::vector<Importance> all = measured(rows);
    for (size_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(at::allclose(all[layer].scores_GF, expected[layer].scores_GF, 1e-5, 0)) << layer;
      EXPECT_TRUE(at::equal(all[layer].tokens_G, expected[layer].tokens_G));
    }
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
