#include "runtime/model_settings.h"

#include <algorithm>

#include "common/error.h"
#include "model/device.h"

namespace moe {
namespace {

constexpr int64_t kDefaultLength = 512;

}  // namespace

int64_t sequence_length_for(const ModelConfig& config, int64_t given) {
  if (given > config.max_positions) {
    throw InvalidArgument(
        concat("sequence_length ", given, " is more than the model's max_position_embeddings ", config.max_positions));
  }
  return given > 0 ? given : std::min(kDefaultLength, config.max_positions);
}

at::ScalarType weight_type(const v1::GangSpec& gang) {
  return gang.dtype() == "float64" ? at::kDouble : at::kFloat;
}

at::ScalarType compute_type(const v1::GangSpec& gang) {
  return gang.dtype() == "bfloat16" ? at::kBFloat16 : weight_type(gang);
}

at::TensorOptions weight_options(const v1::GangSpec& gang) {
  return at::TensorOptions(weight_type(gang)).device(device_of(gang.device()));
}

at::TensorOptions compute_options(const v1::GangSpec& gang) {
  return at::TensorOptions(compute_type(gang)).device(device_of(gang.device()));
}

}  // namespace moe
