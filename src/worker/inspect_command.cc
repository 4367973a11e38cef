#include <CLI/App.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "model/parameters.h"
#include "worker/commands.h"

namespace moe {
namespace {

struct InspectOptions {
  std::string model;
  std::string format = "text";
  bool tensors = false;
};

nlohmann::json describe(const ModelDirectory& directory, bool with_tensors) {
  const ModelConfig& config = directory.config();
  const ParameterCount parameters = count_parameters(config);
  nlohmann::json result = {
      {"path", directory.path().string()},       {"family", config.model_type},
      {"kind", config.moe ? "moe" : "dense"},    {"stored_dtype", directory.stored_dtype()},
      {"hidden_size", config.hidden_size},       {"intermediate_size", config.intermediate_size},
      {"num_layers", config.num_layers},         {"num_heads", config.num_heads},
      {"num_kv_heads", config.num_kv_heads},     {"head_dim", config.head_dim},
      {"vocab_size", config.vocab_size},         {"max_positions", config.max_positions},
      {"rope_theta", config.rope.theta},         {"rope_type", config.rope.type},
      {"tied_head", config.tie_word_embeddings}, {"parameters_total", parameters.total},
      {"parameters_active", parameters.active},  {"digest", directory.digest()},
  };
  if (config.moe) {
    result["moe"] = {{"num_experts", config.moe->num_experts},
                     {"top_k", config.moe->top_k},
                     {"expert_widths", config.moe->expert_widths_json()},
                     {"shared_widths", config.moe->shared_widths},
                     {"output_scale", config.moe->output_scale},
                     {"score", config.moe->score},
                     {"topk_norm", config.moe->topk_norm},
                     {"router", config.moe->router},
                     {"router_noise", config.moe->router_noise},
                     {"conversion", config.moe->conversion}};
    if (config.moe->shared_gate != "none") {
      result["moe"].update(
          {{"shared_gate", config.moe->shared_gate}, {"shared_gate_scale", config.moe->shared_gate_scale}});
    }
    if (config.moe->attention) result["moe"]["attention"] = to_json(*config.moe->attention);
  }
  if (with_tensors) {
    result["tensors"] = nlohmann::json::array();
    for (const TensorSpec& spec : logical_tensor_specs(config)) {
      result["tensors"].push_back({{"name", spec.name}, {"shape", spec.shape}});
    }
  }
  return result;
}

/// One `key  value` line per field, objects indented below their name.
void print_text(const nlohmann::json& object, const std::string& indent) {
  for (const auto& [key, value] : object.items()) {
    if (key == "tensors") continue;
    if (value.is_object()) {
      std::cout << indent << key << ":\n";
      print_text(value, indent + "  ");
    } else {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      std::cout << indent << key << std::string(key.size() < 20 ? 20 - key.size() : 1, ' ') << text << "\n";
    }
  }
}

ExitCode inspect(const InspectOptions& options) {
  const nlohmann::json result = describe(ModelDirectory(options.model), options.tensors);
  if (options.format == "json") {
    std::cout << result.dump(2) << "\n";
    return ExitCode::kDone;
  }
  print_text(result, "");
  if (options.tensors) {
    std::cout << "tensors:\n";
    for (const nlohmann::json& tensor : result["tensors"]) {
      std::cout << "  " << tensor["name"].get<std::string>() << "  " << tensor["shape"].dump() << "\n";
    }
  }
  return ExitCode::kDone;
}

}  // namespace

Subcommand add_inspect_command(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Shapes, parameters, experts and scales of a model directory");
  command->add_option("MODEL", options->model, "Model directory (Hugging Face layout or native)")->required();
  command->add_option("-o,--output", options->format, "text or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  command->add_flag("--tensors", options->tensors, "List every tensor with its shape");
  command->footer(
      "Examples:\n"
      "  moe-worker inspect examples/base-7m\n"
      "  moe-worker inspect runs/quickstart/convert/output-t0001 -o json --tensors");
  return {command, [options](Communicator&) { return inspect(*options); }};
}

}  // namespace moe
