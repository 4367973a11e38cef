#include "train/training_state.h"

namespace moe {

std::vector<TensorRange> training_state(const std::vector<Parameter>& parameters, AdamW& optimizer, const Mesh& mesh) {
  std::vector<TensorRange> ranges;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const bool is_written = (parameter.is_expert ? mesh.replica_group() : mesh.world()).rank() == 0;
    append_logical(ranges, parameter, parameter.value.detach(), "", is_written);
    if (!optimizer.first_moments()[i].defined()) continue;
    append_logical(ranges, parameter, optimizer.first_moments()[i], ".m", is_written);
    append_logical(ranges, parameter, optimizer.second_moments()[i], ".v", is_written);
  }
  return ranges;
}

}  // namespace moe
