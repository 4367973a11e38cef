#pragma once

#include <cstdint>

#include "model/json_fields.h"
#include "model/model_config.h"

namespace moe {

/// What the reading of RoPE needs to know of the model.
struct RopeContext {
  int64_t head_dim = 0;
  int64_t max_positions = 0;
  double partial_rotary_factor = 1;  ///< where the key is absent
  bool turns_whole_heads = true;     ///< refuses a partial_rotary_factor other than 1
};

/// Reads RoPE out of config.json in either spelling: `rope_scaling` beside `rope_theta` (transformers 4) or
/// `rope_parameters`, which holds all (transformers 5); where both stand, rope_scaling wins whole. Inside, `rope_type`
/// or the old name `type`. Warns where yarn's factor is not max_position_embeddings / original_max_position_embeddings,
/// which some releases take in its place. Throws InvalidArgument that names file, key and value.
///
/// Source   transformers 5, modeling_rope_utils.py.
RopeConfig read_rope(const JsonFields& config, const RopeContext& context);

}  // namespace moe
