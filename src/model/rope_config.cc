#include "model/rope_config.h"

#include <string>

#include "common/log.h"

namespace moe {
namespace {

constexpr double kDefaultTheta = 10000;

/// The key that holds the description, as transformers 5 chooses it; null where neither does.
const char* chosen_key(const JsonFields& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (config.has(key) && config.required(key) != nlohmann::json::object()) return key;
  }
  return nullptr;
}

/// The positions that the model was first trained for; a key beside the description wins over the one in it.
int64_t original_max_positions(const JsonFields& config, const JsonFields& rope, int64_t max_positions) {
  constexpr char kKey[] = "original_max_position_embeddings";
  return config.has(kKey) ? config.integer(kKey) : rope.integer_or(kKey, max_positions);
}

void read_llama3(const JsonFields& config, const JsonFields& rope, int64_t max_positions, RopeConfig& out) {
  out.factor = rope.positive("factor");
  out.low_freq_factor = rope.positive("low_freq_factor");
  out.high_freq_factor = rope.positive("high_freq_factor");
  if (out.high_freq_factor <= out.low_freq_factor) {
    rope.fail("high_freq_factor", concat("more than low_freq_factor ", out.low_freq_factor));
  }
  out.original_max_positions = original_max_positions(config, rope, max_positions);
}

void read_yarn(const JsonFields& config, const JsonFields& rope, int64_t max_positions, RopeConfig& out) {
  out.factor = rope.positive("factor");
  out.original_max_positions = original_max_positions(config, rope, max_positions);
  // Zero is "not given", as in transformers.
  const auto or_if_zero = [&](const char* key, double otherwise) {
    const double value = rope.number_or(key, otherwise);
    if (value < 0) rope.fail(key, "a number above 0");
    return value == 0 ? otherwise : value;
  };
  out.beta_fast = or_if_zero("beta_fast", out.beta_fast);
  out.beta_slow = or_if_zero("beta_slow", out.beta_slow);
  if (out.beta_fast < out.beta_slow)
    rope.fail(rope.has("beta_fast") ? "beta_fast" : "beta_slow", "beta_fast of at least beta_slow");
  out.mscale = or_if_zero("mscale", 0);
  out.mscale_all_dim = or_if_zero("mscale_all_dim", 0);
  if (rope.has("attention_factor")) out.attention_factor = rope.positive("attention_factor");
  out.truncate = rope.boolean_or("truncate", true);
  if (out.theta <= 1)
    throw InvalidArgument(concat(config.where(), ": rope_theta is ", out.theta, "; yarn needs a number above 1"));
  const double ratio = static_cast<double>(max_positions) / static_cast<double>(out.original_max_positions);
  if (out.original_max_positions != max_positions && ratio != out.factor) {
    log_warning(concat("event=yarn_factor_differs file=", config.where(), " factor=", out.factor,
                       " max_over_original_positions=", ratio, " taken=factor"));
  }
}

void read_description(const JsonFields& config, const JsonFields& rope, const RopeContext& context, RopeConfig& out) {
  for (const auto& [key, value] : rope.object().items()) {
    if (value.is_object())
      rope.fail(key, "one description for all layers: other positions in some layers are not supported");
  }
  const char* const type_key = rope.has("rope_type") ? "rope_type" : "type";
  out.type = rope.text_or(type_key, "default");
  if (out.type == "linear" || out.type == "dynamic") {
    out.factor = rope.positive("factor");
  } else if (out.type == "llama3") {
    read_llama3(config, rope, context.max_positions, out);
  } else if (out.type == "yarn") {
    read_yarn(config, rope, context.max_positions, out);
  } else if (out.type != "default") {
    rope.fail(type_key, R"("default", "linear", "dynamic", "llama3" or "yarn")");
  }
}

/// Elements of a head that turn.
int64_t rotary_dims(const JsonFields& fields, const RopeContext& context) {
  constexpr char kKey[] = "partial_rotary_factor";
  const double factor = fields.number_or(kKey, context.partial_rotary_factor);
  if (context.turns_whole_heads && factor != 1) fields.fail(kKey, "1: this family turns whole heads");
  if (!(factor > 0) || factor > 1) fields.fail(kKey, "a number above 0, at most 1");
  const auto dims = static_cast<int64_t>(static_cast<double>(context.head_dim) * factor);
  if (dims % 2 != 0 || dims == 0) {
    throw InvalidArgument(factor == 1
                              ? concat(fields.where(), ": head_dim ", context.head_dim, " is odd; RoPE turns pairs")
                              : concat(fields.where(), ": `", kKey, "` ", factor, " of head_dim ", context.head_dim,
                                       " is ", dims, " dimensions; RoPE turns pairs: an even number of at least 2"));
  }
  return dims;
}

}  // namespace

RopeConfig read_rope(const JsonFields& config, const RopeContext& context) {
  const char* const key = chosen_key(config);
  const nlohmann::json none = nlohmann::json::object();
  const JsonFields rope(key != nullptr ? config.required(key) : none,
                        key != nullptr ? concat(config.where(), ": ", key) : config.where());
  RopeConfig out;
  out.theta = rope.has("rope_theta") ? rope.positive("rope_theta") : config.positive_or("rope_theta", kDefaultTheta);
  out.rotary_dims = rotary_dims(rope.has("partial_rotary_factor") ? rope : config, context);
  read_description(config, rope, context, out);
  if (out.type == "dynamic" && out.rotary_dims < 4) {
    throw InvalidArgument(concat(rope.where(), ": rope_type \"dynamic\" turns ", out.rotary_dims,
                                 " dimensions of a head; it needs 4 or more"));
  }
  return out;
}

}  // namespace moe
