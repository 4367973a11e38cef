#include "convert/fixture_methods.h"

#include <utility>
#include <vector>

#include "convert/neuron_scores.h"

namespace moe::testing {
namespace {

/// A quarter of the neurons is shared, and of what is left expert e gets a share of e + 1.
LayerWidths growing_widths(const ModelConfig& config, const v1::ConvertSpec& spec) {
  const int64_t experts = spec.ffn().experts(), shared = config.intermediate_size / 4;
  LayerWidths widths{.shared = shared};
  const auto begin = [&](int64_t e) {
    return (config.intermediate_size - shared) * e * (e + 1) / (experts * (experts + 1));
  };
  for (int64_t e = 0; e < experts; ++e) widths.experts.push_back(begin(e + 1) - begin(e));
  return widths;
}

LayerPlan plan_shared_uneven(const LayerInputs& inputs, Communicator& world) {
  at::Tensor activity = inputs.features->activations_TF.abs().sum(0, false, at::kDouble);
  world.all_reduce_sum(activity, "activity of neurons");
  const std::vector<int32_t> order = by_falling_score(activity);
  const LayerWidths widths = growing_widths(inputs.config, inputs.spec);
  auto next = order.begin() + widths.shared;
  std::vector<std::vector<int32_t>> experts;
  for (const int64_t width : widths.experts) {
    experts.emplace_back(next, next + width);
    next += width;
  }
  return plan_of_neurons(std::move(experts), {order.begin(), order.begin() + widths.shared});
}

/// Document by document, from its place in the text.
TokenGroups group_documents(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD,
                            Communicator& /*world*/) {
  TokenGroups groups{.count = inputs.spec.ffn().experts(),
                     .ids_T = at::zeros({hidden_TD.front().size(0)}, at::kLong),
                     .rows_GD = at::full({inputs.spec.ffn().experts(), 2}, static_cast<double>(inputs.layer))};
  const LayerFeatures& features = *inputs.features;
  for (size_t s = 0; s + 1 < features.cu_seqlens.size(); ++s) {
    groups.ids_T.slice(0, features.cu_seqlens[s], features.cu_seqlens[s + 1])
        .fill_(features.document_id(s) / 16 % groups.count);
  }
  return groups;
}

/// A sixth of the neurons, the most important of all text, is shared; each other goes to the expert whose text it is
/// most important to, of those that have room.
LayerPlan plan_by_importance(const LayerInputs& inputs, Communicator& /*world*/) {
  const at::Tensor scores = inputs.importance->scores_GF;
  const std::vector<int32_t> order = by_falling_score(scores.sum(0));
  const int64_t shared = inputs.config.intermediate_size / 6, experts = inputs.spec.ffn().experts(),
                room = (inputs.config.intermediate_size - shared) / experts;
  std::vector<std::vector<int32_t>> parts(experts);
  for (auto neuron = order.begin() + shared; neuron != order.end(); ++neuron) {
    for (const int32_t expert : by_falling_score(scores.select(1, *neuron))) {
      if (static_cast<int64_t>(parts[expert].size()) == room) continue;
      parts[expert].push_back(*neuron);
      break;
    }
  }
  return plan_of_neurons(std::move(parts), {order.begin(), order.begin() + shared});
}

/// Four experts that are more than copies of neurons.
LayerPlan plan_blend(const LayerInputs& inputs, Communicator& /*world*/) {
  const IndexList few = index_list({5, 0, 7}), others = index_list({1, 2, 3});
  LayerPlan plan;
  plan.experts.resize(4);
  plan.experts[0].runs = {{.neurons = few, .in = 0.5, .down = 0.5},
                          {.neurons = others, .in = 0.5, .down = 0.5, .model = 1, .adds = true}};
  plan.experts[1].runs = {{.neurons = few, .in = 2, .down = 4, .model = 1}};
  plan.experts[2].runs = {{.neurons = index_list({4})}, {.neurons = few, .remake = [](const FeedForwardWeights& taken) {
                                                           FeedForwardWeights made = taken;
                                                           made.up = taken.up + 1;
                                                           made.down = taken.down * 3;
                                                           return made;
                                                         }}};
  plan.experts[3].runs = {{.neurons = others, .model = 1}, {.neurons = few}};
  plan.router_ED = at::arange(4 * inputs.config.hidden_size, at::kFloat).view({4, -1});
  const std::string norm = "model.layers." + std::to_string(inputs.layer) + ".input_layernorm.weight";
  plan.others = {{norm,
                  {inputs.config.hidden_size},
                  {{.source = norm, .factor = 0.5}, {.source = norm, .factor = 0.5, .model = 1, .adds = true}}}};
  return plan;
}

}  // namespace

const Registry<ConversionMethod>& fixture_methods() {
  static const Registry<ConversionMethod> methods(
      "conversion method",
      {
          {"shared_uneven",
           {.summary = "a test's",
            .is_partition = true,
            .plan = plan_shared_uneven,
            .widths = growing_widths,
            .needs = {.activations = true}}},
          {"by_importance",
           {.summary = "a test's",
            .is_partition = true,
            .plan = plan_by_importance,
            .needs = {.gradients = true},
            .group_tokens = group_documents}},
          {"blend", {.summary = "a test's", .is_partition = false, .plan = plan_blend, .has_router = true}},
      });
  return methods;
}

}  // namespace moe::testing
