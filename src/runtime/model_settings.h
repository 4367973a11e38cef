#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/data_loader.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"

/// What a job file leaves to the model besides its text (opened_model.h): row length, type.
namespace moe {

/// `given` if set, else min(512, the model's maximum). Throws InvalidArgument if it is longer than the model allows.
int64_t sequence_length_for(const ModelConfig& config, int64_t given);

/// kFloat or kDouble: in what a job keeps weights, and writes them.
at::ScalarType weight_type(const v1::GangSpec& gang);
/// That, or kBFloat16: what a job computes in.
at::ScalarType compute_type(const v1::GangSpec& gang);
/// Those types, on the device that a rank of the gang computes on (model/device.h).
at::TensorOptions weight_options(const v1::GangSpec& gang);
at::TensorOptions compute_options(const v1::GangSpec& gang);

}  // namespace moe
