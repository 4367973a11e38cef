#include "convert/other_models.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/log.h"
#include "convert/conversion.h"
#include "convert/request_check.h"
#include "data/tokenizer/tokenizer.h"
#include "model/tensor_specs.h"

namespace moe {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;

/// What two models have to share, under the keys of config.json where there are such. Attention is compared where it is
/// made of all of them; the FFNs of models that turn positions otherwise can still be experts of one.
Settings settings_of(const ModelConfig& config, bool is_attention_averaged) {
  const auto yes_no = [](bool value) { return std::string(value ? "yes" : "no"); };
  Settings settings{{"hidden_size", concat(config.hidden_size)},
                    {"intermediate_size", concat(config.intermediate_size)},
                    {"num_hidden_layers", concat(config.num_layers)},
                    {"vocab_size", concat(config.vocab_size)},
                    {"num_attention_heads", concat(config.num_heads)},
                    {"num_key_value_heads", concat(config.num_kv_heads)},
                    {"head_dim", concat(config.head_dim)},
                    {"gated FFN", yes_no(config.is_gated)},
                    {"biases of the FFN", yes_no(config.mlp_bias)},
                    {"biases of queries, keys and values", yes_no(config.qkv_bias)},
                    {"bias of the attention's output", yes_no(config.o_bias)},
                    {"tie_word_embeddings", yes_no(config.tie_word_embeddings)}};
  if (is_attention_averaged) {
    settings.emplace_back("rope_type", config.rope.type);
    settings.emplace_back("rope_theta", concat(config.rope.theta));
  }
  return settings;
}

/// Ids of both that are spelled otherwise, and the first of them.
struct Differences {
  int64_t count = 0;
  int64_t first = 0;
};

Differences differences_of(const Tokenizer& a, const Tokenizer& b) {
  const auto spelled = [](const Tokenizer& tokenizer, int32_t id) {
    return tokenizer.has_token(id) ? tokenizer.id_to_token(id) : std::string_view();
  };
  Differences found;
  for (int64_t id = 0; id < std::max(a.vocab_size(), b.vocab_size()); ++id) {
    if (spelled(a, static_cast<int32_t>(id)) == spelled(b, static_cast<int32_t>(id))) continue;
    if (found.count++ == 0) found.first = id;
  }
  return found;
}

}  // namespace

void check_others(const ConvertRequest& request) {
  const std::string input = request.source.path().string();
  const ConversionMethod& method = method_of(request);
  const bool is_averaged =
      method.ends &&
      !method.ends(request.source.config(), request.spec, MethodOptions(method.options, request.spec)).empty();
  const Settings expected = settings_of(request.source.config(), is_averaged);
  for (const ModelDirectory* const other : request.others) {
    const std::string path = other->path().string();
    check_is_dense(*other, "ffn.others: ");
    const Settings found = settings_of(other->config(), is_averaged);
    for (size_t i = 0; i < expected.size(); ++i) {
      if (found[i].second == expected[i].second) continue;
      throw InvalidArgument(concat("convert: ffn.others: ", expected[i].first, " is ", found[i].second, " in ", path,
                                   " and ", expected[i].second, " in ", input, "; give models of one shape"));
    }
    if (!have_same_tensors(other->config(), request.source.config())) {
      throw InvalidArgument(
          concat("convert: ffn.others: ", path, " has not the tensors of ", input, "; give models of one shape"));
    }
  }
}

void warn_of_other_tokenizers(const ConvertRequest& request) {
  if (request.text.tokenizer == nullptr) return;
  for (const ModelDirectory* const other : request.others) {
    if (!Tokenizer::file_in(other->path())) continue;
    const std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::from_directory(other->path());
    if (tokenizer->digest() == request.text.tokenizer->digest()) continue;
    const Differences found = differences_of(*request.text.tokenizer, *tokenizer);
    if (found.count == 0) continue;
    log_shared_warning(concat("event=tokenizers_differ model=\"", other->path().string(), "\" input=\"",
                              request.source.path().string(), "\" ids=", found.count, " first=", found.first,
                              " reason=\"these ids are other tokens to the two models, and the result has the "
                              "tokenizer of the input\""));
  }
}

}  // namespace moe
