#include "convert/layer_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/error.h"

namespace moe {
namespace {

int64_t length(const NeuronRun& run) {
  return static_cast<int64_t>(run.neurons->size());
}

/// A run as it stands in the model: copied.
bool is_copy(const NeuronRun& run) {
  return run.model == 0 && run.in == 1 && run.down == 1 && !run.adds && !run.remake;
}

void check_expert(const ExpertPlan& expert, const PlanLimits& limits, const std::string& what, std::vector<int>& uses) {
  MOE_CHECK(expert.width() > 0, what, " has no neurons");
  for (size_t i = 0; i < expert.runs.size(); ++i) {
    const NeuronRun& run = expert.runs[i];
    MOE_CHECK(run.model >= 0 && run.model < limits.models, what, " takes from model ", run.model, " of ",
              limits.models);
    MOE_CHECK(!run.adds || (i > 0 && length(run) == length(expert.runs[i - 1])), what, ": run ", i,
              " adds to no run of its length");
    for (const int32_t neuron : *run.neurons) {
      MOE_CHECK(neuron >= 0 && neuron < limits.neurons, what, ": neuron ", neuron, " of ", limits.neurons);
      if (is_copy(run)) ++uses[neuron];
    }
  }
}

}  // namespace

int64_t ExpertPlan::width() const {
  int64_t width = 0;
  for (const NeuronRun& run : runs) width += run.adds ? 0 : length(run);
  return width;
}

LayerWidths LayerPlan::widths() const {
  LayerWidths widths;
  for (const ExpertPlan& expert : experts) widths.experts.push_back(expert.width());
  widths.shared = shared.width();
  return widths;
}

LayerPlan plan_of_neurons(std::vector<std::vector<int32_t>> experts, std::vector<int32_t> shared) {
  LayerPlan plan;
  for (std::vector<int32_t>& neurons : experts) plan.experts.push_back({{{.neurons = index_list(std::move(neurons))}}});
  if (!shared.empty()) plan.shared.runs.push_back({.neurons = index_list(std::move(shared))});
  return plan;
}

std::vector<int32_t> neurons_in(const ExpertPlan& expert) {
  std::vector<int32_t> neurons;
  for (const NeuronRun& run : expert.runs) neurons.insert(neurons.end(), run.neurons->begin(), run.neurons->end());
  return neurons;
}

bool is_copy_of_neurons(const LayerPlan& plan) {
  const auto copies = [](const ExpertPlan& expert) {
    return std::all_of(expert.runs.begin(), expert.runs.end(), is_copy);
  };
  return copies(plan.shared) && std::all_of(plan.experts.begin(), plan.experts.end(), copies);
}

void check_plan(const LayerPlan& plan, const PlanLimits& limits) {
  const std::string where = concat(" (layer ", limits.layer, ")");
  MOE_CHECK(static_cast<int64_t>(plan.experts.size()) == limits.experts, "the method made ", plan.experts.size(),
            " experts of ", limits.experts, where);
  std::vector<int> uses(limits.neurons, 0);
  for (size_t e = 0; e < plan.experts.size(); ++e)
    check_expert(plan.experts[e], limits, concat("expert ", e, where), uses);
  if (!plan.shared.runs.empty()) check_expert(plan.shared, limits, "the shared part" + where, uses);
  MOE_CHECK(!limits.is_partition || (is_copy_of_neurons(plan) &&
                                     std::all_of(uses.begin(), uses.end(), [](int count) { return count == 1; })),
            "the method is said to partition and does not", where);
  MOE_CHECK(plan.router_ED.defined() == limits.has_router, "the method is said to ",
            limits.has_router ? "make a router and does not" : "make no router and does", where);
  MOE_CHECK(!limits.has_router || (plan.router_ED.sizes() == at::IntArrayRef({limits.experts, limits.hidden_size}) &&
                                   plan.router_ED.scalar_type() == at::kFloat),
            "a router is float [", limits.experts, ", ", limits.hidden_size, "]", where);
  MOE_CHECK(
      !plan.router_gate_ED.defined() || (limits.has_router && plan.router_gate_ED.sizes() == plan.router_ED.sizes() &&
                                         plan.router_gate_ED.scalar_type() == at::kFloat),
      "a product router has two matrices of one shape", where);
}

}  // namespace moe
