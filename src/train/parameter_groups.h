#pragma once

#include <functional>
#include <vector>

#include "model/parameters.h"

namespace moe {

/// How weights are trained.
struct ParameterGroup {
  bool is_trained = true;           ///< false: no gradient, no moments, no decay; it keeps every bit
  double learning_rate_factor = 1;  ///< times the rate of the schedule
  double weight_decay_factor = 1;   ///< times the weight decay, where a parameter decays at all

  bool operator==(const ParameterGroup&) const = default;
};

/// The weights of a recipe and how each is trained.
struct TrainedParameters {
  std::vector<Parameter> all;          ///< in the order of sums and checkpoints; their tensors are the model's own
  std::vector<ParameterGroup> groups;  ///< [all.size()]
};

/// Says the group of a parameter: the same on every rank.
using GroupOf = std::function<ParameterGroup(const Parameter& parameter)>;

/// `group_of` empty: all are trained alike. Selection biases of routers are never trained.
TrainedParameters in_groups(std::vector<Parameter> parameters, const GroupOf& group_of = {});

/// Asks gradients of what is trained and of nothing else. Throws agreed InvalidArgument if nothing is.
void require_gradients(const TrainedParameters& parameters);

}  // namespace moe
