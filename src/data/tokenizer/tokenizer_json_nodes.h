#pragma once

#include <string>
#include <vector>

#include "data/tokenizer/json_node.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pretokenizer.h"
#include "data/tokenizer/token_decoders.h"

/// The lists of node types of tokenizer.json that are supported, one per kind of node. Sequences become flat lists,
/// null is the empty one. Anything else is refused by name with its path.
namespace moe {

std::vector<NormalizerNode> read_normalizers(const JsonNode& node);
std::vector<PreTokenizerNode> read_pre_tokenizers(const JsonNode& node);
std::vector<DecoderNode> read_decoders(const JsonNode& node);

/// What the post-processors say, as far as it concerns a text without added special tokens.
struct PostProcessing {
  std::vector<bool> offset_trims;   ///< per ByteLevel with trim_offsets: its add_prefix_space
  std::vector<int64_t> prefix_ids;  ///< of the TemplateProcessing: before the text
  std::vector<int64_t> suffix_ids;  ///< behind it
};
PostProcessing read_post_processors(const JsonNode& node);

}  // namespace moe
