#include "model/qwen2_family.h"

#include <algorithm>

#include "model/config_fields.h"

namespace moe {
namespace {

/// Layers whose attention slides: those that `layer_types` says, else those from `max_window_layers` on.
int64_t sliding_layers(const JsonFields& fields, int64_t layers) {
  constexpr char kTypes[] = "layer_types";
  if (!fields.has(kTypes)) return layers - std::min(layers, fields.integer_or("max_window_layers", 28, /*least=*/0));
  int64_t sliding = 0;
  for (const std::string& type : fields.texts(kTypes, layers)) {
    if (type != "full_attention" && type != "sliding_attention")
      fields.fail(kTypes, R"("full_attention" or "sliding_attention" each)");
    sliding += type == "sliding_attention";
  }
  return sliding;
}

/// The window of every layer, or none: what `sliding_window` means is decided by three other keys.
std::optional<int64_t> read_window(const JsonFields& fields, const ModelConfig& config) {
  const bool is_used = fields.boolean_or("use_sliding_window", false) && fields.has("sliding_window");
  const int64_t sliding = is_used || fields.has("layer_types") ? sliding_layers(fields, config.num_layers) : 0;
  if (!is_used && sliding > 0)
    fields.fail("layer_types", "\"full_attention\" for all: use_sliding_window is not true or sliding_window is null");
  if (sliding == 0) return std::nullopt;
  const int64_t window = fields.integer("sliding_window");
  if (sliding < config.num_layers) {
    throw InvalidArgument(
        concat(fields.where(), ": `use_sliding_window` is true, and ",
               fields.has("layer_types") ? "`layer_types`" : "`max_window_layers`", " lets ", sliding, " of ",
               config.num_layers, " layers slide (sliding_window ", window,
               "): windows in some layers only are not supported; set use_sliding_window to false for full attention"));
  }
  return window < config.max_positions ? std::optional(window) : std::nullopt;
}

void read_qwen2_config(const nlohmann::json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  read_common_fields(fields, {.activation = "silu", .norm_eps_key = "rms_norm_eps", .norm_eps = 1e-6}, config);
  config.qkv_bias = true;
  config.attention_window = read_window(fields, config);
}

}  // namespace

ModelFamily qwen2_family() {
  return {read_qwen2_config, {}, "Qwen2ForCausalLM"};
}

}  // namespace moe
