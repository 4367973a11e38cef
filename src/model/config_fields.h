#pragma once

#include <string>

#include "model/json_fields.h"
#include "model/model_config.h"

namespace moe {

/// What differs between families in the keys that all of them have.
struct FamilyFields {
  const char* activation;  ///< the only `hidden_act` that the family's FFN computes, by its first name
  const char* norm_eps_key;
  double norm_eps;                   ///< where the key is absent
  double partial_rotary_factor = 1;  ///< where the key is absent
  bool turns_whole_heads = true;     ///< refuses a partial_rotary_factor other than 1, which the family's code ignores
};

/// Reads the keys of a Hugging Face config.json that every decoder has: sizes, norm eps, RoPE, tied head. Throws
/// InvalidArgument that names file, key and value.
void read_common_fields(const JsonFields& fields, const FamilyFields& family, ModelConfig& config);

/// Refuses more experts, read from `key`, than any model of so many layers has: a broken config must not fill memory
/// with names.
void check_num_experts(const JsonFields& fields, const char* key, int64_t experts, int64_t layers);

/// `score` and `topk_norm` of routers (model/moe/router.h), by default "softmax" and "renorm".
std::string read_router_score(const JsonFields& fields);
std::string read_topk_norm(const JsonFields& fields);

}  // namespace moe
