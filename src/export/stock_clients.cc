#include "export/stock_clients.h"

#include "common/error.h"
#include "export/stock_traits.h"

namespace moe {
namespace {

constexpr char kTransformers[] = "transformers 4.5x, 5", kVllm[] = "vLLM", kLlamaCpp[] = "llama.cpp";

struct Clients {
  ClientNote transformers{kTransformers, true, ""}, vllm{kVllm, true, ""}, llama_cpp{kLlamaCpp, true, ""};
};

void note_rope(const std::string& layout, const ModelConfig& config, Clients& clients) {
  const RopeConfig& rope = config.rope;
  if (rope.type != "default" && (layout == kMixtral || layout == kGranite)) {
    clients.vllm.note = concat("needs a version that hands RoPE scaling (here ", rope.type, ") to ", layout,
                               "; older ones take theta alone, without a word");
  }
  if (rope.type == "yarn" && rope.original_max_positions > 0 &&
      rope.factor * static_cast<double>(rope.original_max_positions) != static_cast<double>(config.max_positions)) {
    clients.transformers.note =
        "YaRN's factor is not max_position_embeddings / original: some 4.5x versions take the quotient instead";
  }
}

void note_granite(const ModelConfig& config, Clients& clients) {
  if (config.qkv_bias) {
    clients.vllm = {kVllm, false, "its granite attention has no biases"};
    clients.llama_cpp = {kLlamaCpp, false, "attention biases in its granite architecture are not checked"};
  }
  if (chosen_weights(*config.moe) == ChosenWeights::kOnes) {
    const char* const alike = "it chooses by probabilities, which routers of even weights make all alike";
    clients.vllm = {kVllm, false, alike};
    clients.llama_cpp = {kLlamaCpp, false, alike};
  }
}

void note_qwen(const ModelConfig& config, Clients& clients) {
  if (config.moe->topk_norm != "raw") {
    clients.llama_cpp = {kLlamaCpp, false, "its qwen2moe never renormalises the weights"};
  } else if (config.rope.type == "llama3") {
    clients.llama_cpp = {kLlamaCpp, false, "its qwen2moe does not know llama3 RoPE scaling"};
  } else if (!config.moe->dense_layers().empty()) {
    clients.llama_cpp = {kLlamaCpp, false, "its qwen2moe has experts in every layer"};
  }
}

}  // namespace

std::vector<ClientNote> stock_clients_of(const std::string& layout, const ModelConfig& config) {
  Clients clients;
  note_rope(layout, config, clients);
  if (layout == kGranite) note_granite(config, clients);
  if (layout == kQwen) note_qwen(config, clients);
  if (layout == kGlm) clients.llama_cpp = {kLlamaCpp, false, "its glm4moe is not checked"};
  if (layout == kSolar) {
    clients.transformers.client = "transformers 5";
    return {clients.transformers,
            {"transformers 4.5x", false, "it has no solar_open"},
            {kVllm, false, "solar_open is not checked"},
            {kLlamaCpp, false, "solar_open is not checked"}};
  }
  return {clients.transformers, clients.vllm, clients.llama_cpp};
}

}  // namespace moe
