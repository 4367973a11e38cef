#include "train/parameter_groups.h"

#include <algorithm>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe {

TrainedParameters in_groups(std::vector<Parameter> parameters, const GroupOf& group_of) {
  TrainedParameters trained{std::move(parameters), {}};
  for (const Parameter& parameter : trained.all) {
    trained.groups.push_back(group_of ? group_of(parameter) : ParameterGroup{});
    // The load moves it (selection_balance.h): no loss has a gradient of it.
    if (parameter.id.part == TensorPart::kSelectionBias) trained.groups.back().is_trained = false;
  }
  return trained;
}

void require_gradients(const TrainedParameters& parameters) {
  if (std::none_of(parameters.groups.begin(), parameters.groups.end(),
                   [](const ParameterGroup& group) { return group.is_trained; })) {
    throw_agreed<InvalidArgument>(
        concat("none of the ", parameters.all.size(), " parameters is trained; a recipe must leave some to train"));
  }
  for (size_t i = 0; i < parameters.all.size(); ++i)
    parameters.all[i].value.set_requires_grad(parameters.groups[i].is_trained);
}

}  // namespace moe
