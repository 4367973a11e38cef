#include "data/tokenizer/tokenizer_json_nodes.h"

#include <functional>
#include <limits>

#include "common/error.h"
#include "common/json_text.h"
#include "data/tokenizer/utf8.h"

namespace moe {
namespace {

using Read = std::function<void(const std::string&, const JsonNode&)>;

/// Nodes run inside each other; files have five at most.
constexpr size_t kMostNodes = 64;

void visit_nodes(const JsonNode& node, const char* key, const Read& read, size_t& count) {
  const std::string& type = node.at("type").text();
  if (type != "Sequence") {
    if (++count > kMostNodes) node.refuse(concat("is one more than the ", kMostNodes, " nodes that are supported"));
    return read(type, node);
  }
  const JsonNode list = node.at(key);
  list.expect_array();
  for (size_t i = 0; i < list.size(); ++i) visit_nodes(list.at(i), key, read, count);
}

/// Calls `read` for a node, or for each node of a Sequence, whose list stands under `key`.
void for_each_node(const JsonNode& node, const char* key, const Read& read) {
  size_t count = 0;
  if (!node.is_null()) visit_nodes(node, key, read, count);
}

[[noreturn]] void refuse_type(const JsonNode& node, const std::string& type, const char* supported) {
  node.refuse(concat("is of the type '", excerpt(type), "', which is not supported; supported are ", supported));
}

/// One character.
std::string character(const JsonNode& node) {
  const std::string& text = node.text();
  if (text.empty() || code_point_at(text, 0).size != text.size())
    node.fail(concat("is ", quoted_json(node.value()), "; expected one character"));
  return text;
}

/// {"String": "..."}; `regex` says what to do with {"Regex": "..."}.
std::string plain_pattern(const JsonNode& node, const std::function<void(const JsonNode&)>& regex) {
  if (const auto pattern = node.find("Regex")) {
    pattern->text();
    regex(*pattern);
    return "";
  }
  const JsonNode pattern = node.at("String");
  if (pattern.text().empty()) pattern.refuse("is empty");
  return pattern.text();
}

void refuse_regex(const JsonNode& pattern) {
  pattern.refuse(concat("is the regular expression ", quoted_json(pattern.value()),
                        ", which is not supported here; only {\"String\"} is"));
}

SplitBehavior behavior_of(const JsonNode& node) {
  const std::string& name = node.text();
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  node.fail(concat("is ", quoted_json(node.value()),
                   "; expected Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous"));
}

SplitNode read_split(const JsonNode& node) {
  SplitNode split;
  split.text = plain_pattern(node.at("pattern"), [&split](const JsonNode& pattern) {
    split.scanner = scanner_of(pattern.text());
    if (split.scanner == nullptr) {
      pattern.refuse(
          concat("is the regular expression ", quoted_json(pattern.value()),
                 ", which is not supported; supported are those of GPT-2, LLaMA-3 and Qwen-2, letter by letter"));
    }
  });
  split.behavior = behavior_of(node.at("behavior"));
  split.invert = node.boolean("invert", false);
  return split;
}

/// Of a Metaspace node of either kind. Older files have add_prefix_space in place of prepend_scheme.
MetaspaceNode::Prepend prepend_of(const JsonNode& node) {
  const bool adds = node.boolean("add_prefix_space", true);
  const auto scheme = node.find("prepend_scheme");
  if (!scheme) return adds ? MetaspaceNode::Prepend::kAlways : MetaspaceNode::Prepend::kNever;
  const std::string& name = scheme->text();
  if (name == "never") return MetaspaceNode::Prepend::kNever;
  if (name != "first" && name != "always")
    scheme->fail(concat("is ", quoted_json(scheme->value()), "; expected first, always or never"));
  if (!adds) scheme->fail(concat("is ", quoted_json(scheme->value()), " although add_prefix_space is false"));
  return name == "first" ? MetaspaceNode::Prepend::kFirst : MetaspaceNode::Prepend::kAlways;
}

void read_template(const JsonNode& node, PostProcessing& all) {
  const JsonNode single = node.at("single");
  single.expect_array();
  bool is_before = true;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonNode part = single.at(i);
    if (const auto sequence = part.find("Sequence")) {
      if (sequence->at("id").text() != "A") sequence->at("id").fail("is not 'A', the one text there is");
      if (!is_before) sequence->refuse("repeats the text, which is not supported");
      is_before = false;
      continue;
    }
    const JsonNode token = part.at("SpecialToken").at("id");
    const JsonNode ids = node.at("special_tokens").at(token.text().c_str()).at("ids");
    ids.expect_array();
    for (size_t k = 0; k < ids.size(); ++k)
      (is_before ? all.prefix_ids : all.suffix_ids).push_back(ids.at(k).integer(std::numeric_limits<int32_t>::max()));
  }
  if (is_before) single.fail("holds no {\"Sequence\"}: a text would have no place");
}

}  // namespace

std::vector<NormalizerNode> read_normalizers(const JsonNode& node) {
  std::vector<NormalizerNode> nodes;
  for_each_node(node, "normalizers", [&nodes](const std::string& type, const JsonNode& one) {
    if (type == "NFC") {
      nodes.emplace_back(NfcNode{std::make_shared<Nfc>()});
    } else if (type == "Prepend") {
      nodes.emplace_back(PrependNode{one.at("prepend").text()});
    } else if (type == "Replace") {
      nodes.emplace_back(ReplaceNode{plain_pattern(one.at("pattern"), refuse_regex), one.at("content").text()});
    } else {
      refuse_type(one, type, "NFC, Prepend, Replace and Sequence");
    }
  });
  return nodes;
}

std::vector<PreTokenizerNode> read_pre_tokenizers(const JsonNode& node) {
  std::vector<PreTokenizerNode> nodes;
  for_each_node(node, "pretokenizers", [&nodes](const std::string& type, const JsonNode& one) {
    if (!nodes.empty() && std::holds_alternative<ByteLevelNode>(nodes.back())) {
      one.refuse("stands behind a ByteLevel, which is supported as the last one only");
    }
    if (type == "ByteLevel") {
      nodes.emplace_back(ByteLevelNode{one.at("add_prefix_space").boolean(), one.boolean("use_regex", true)});
    } else if (type == "Split") {
      nodes.emplace_back(read_split(one));
    } else if (type == "Digits") {
      nodes.emplace_back(DigitsNode{one.boolean("individual_digits", false)});
    } else if (type == "Metaspace") {
      nodes.emplace_back(MetaspaceNode{character(one.at("replacement")), prepend_of(one), one.boolean("split", true)});
    } else {
      refuse_type(one, type, "ByteLevel, Digits, Metaspace, Split and Sequence");
    }
  });
  return nodes;
}

std::vector<DecoderNode> read_decoders(const JsonNode& node) {
  std::vector<DecoderNode> nodes;
  if (node.is_null()) node.refuse("is null, which is not supported: tokens would be joined with spaces");
  for_each_node(node, "decoders", [&nodes](const std::string& type, const JsonNode& one) {
    constexpr int64_t kMostStripped = 1 << 20;
    if (type == "ByteLevel") {
      nodes.emplace_back(ByteLevelDecoderNode{});
    } else if (type == "ByteFallback") {
      nodes.emplace_back(ByteFallbackDecoderNode{});
    } else if (type == "Fuse") {
      nodes.emplace_back(FuseDecoderNode{});
    } else if (type == "Strip") {
      nodes.emplace_back(StripDecoderNode{character(one.at("content")),
                                          static_cast<size_t>(one.at("start").integer(kMostStripped)),
                                          static_cast<size_t>(one.at("stop").integer(kMostStripped))});
    } else if (type == "Replace") {
      nodes.emplace_back(ReplaceDecoderNode{plain_pattern(one.at("pattern"), refuse_regex), one.at("content").text()});
    } else if (type == "Metaspace") {
      nodes.emplace_back(
          MetaspaceDecoderNode{character(one.at("replacement")), prepend_of(one) != MetaspaceNode::Prepend::kNever});
    } else {
      refuse_type(one, type, "ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip and Sequence");
    }
  });
  if (const std::string why = why_not_streamable(nodes); !why.empty())
    node.refuse("has " + why + ", which is not supported");
  return nodes;
}

PostProcessing read_post_processors(const JsonNode& node) {
  PostProcessing all;
  for_each_node(node, "processors", [&all](const std::string& type, const JsonNode& one) {
    if (type == "ByteLevel") {
      if (one.boolean("trim_offsets", true)) all.offset_trims.push_back(one.boolean("add_prefix_space", true));
    } else if (type == "TemplateProcessing") {
      read_template(one, all);
    } else {
      refuse_type(one, type, "ByteLevel, TemplateProcessing and Sequence");
    }
  });
  return all;
}

}  // namespace moe
