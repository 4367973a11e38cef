#include "runtime/model_settings.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

constexpr int64_t kDefaultLength = 512;
constexpr char kTemplateKey[] = "chat_template_name";

}  // namespace

int64_t sequence_length_for(const ModelConfig& config, int64_t given) {
  if (given > config.max_positions) {
    throw InvalidArgument(
        concat("sequence_length ", given, " is more than the model's max_position_embeddings ", config.max_positions));
  }
  return given > 0 ? given : std::min(kDefaultLength, config.max_positions);
}

ChatTemplateChoice chat_template_for(const std::filesystem::path& model, const ModelConfig& config,
                                     const std::string& given) {
  if (!given.empty()) return {given};
  if (config.source.contains(kTemplateKey)) {
    if (!config.source[kTemplateKey].is_string()) {
      throw InvalidArgument(concat((model / "config.json").string(), ": ", kTemplateKey, " is ",
                                   config.source[kTemplateKey].type_name(), "; expected a string"));
    }
    return {config.source[kTemplateKey]};
  }
  return choose_chat_template(model);
}

std::shared_ptr<const Tokenizer> tokenizer_for(const std::filesystem::path& model) {
  if (!Tokenizer::file_in(model)) return nullptr;
  return Tokenizer::from_directory(model);
}

at::ScalarType compute_type(const v1::GangSpec& gang) {
  return gang.dtype() == "float64" ? at::kDouble : at::kFloat;
}

}  // namespace moe
