#include "data/tokenizer/tokenizer_json_reader.h"

#include <algorithm>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/json_text.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/tokenizer_json_document.h"
#include "data/tokenizer/tokenizer_json_nodes.h"

namespace moe {
namespace {

using nlohmann::json;

/// A vocabulary may have holes, but not so many that a small file asks for much memory.
int64_t largest_id(size_t tokens) {
  return static_cast<int64_t>(2 * tokens + 65536);
}

/// As messages quote it. (Called `quoted`, std::quoted would be the better match for a string that is not const.)
std::string as_json(const std::string& text) {
  return quoted_json(json(text));
}

void read_vocabulary(const JsonNode& vocab, const TokenizerJsonDocument& document, TokenizerJson& file) {
  vocab.expect_object();
  if (document.vocabulary.empty()) vocab.fail("is empty");
  const int64_t most = largest_id(document.vocabulary.size());
  for (const auto& [text, value] : document.vocabulary) {
    const auto name = [&, &key = text] { return concat("[", as_json(key), "]"); };
    if (value > most) vocab.fail_at(name(), concat("is ", value, "; expected an id from 0 to ", most));
    const auto id = static_cast<int32_t>(value);
    const Vocabulary::Added result = file.vocabulary.insert(text, id);
    if (result == Vocabulary::Added::kIdIsThere) {
      vocab.fail_at(name(), concat("has the id ", id, ", as has ", as_json(file.vocabulary.text_of(id))));
    }
    if (result == Vocabulary::Added::kTextIsThere) vocab.fail_at(name(), "stands twice");
    if (!file.is_byte_level) {
      file.model.insert(text, id);
    } else if (const auto bytes = byte_level_bytes(text)) {
      file.model.insert(*bytes, id);
    }
  }
}

void read_merges(const JsonNode& merges, const TokenizerJsonDocument& document, TokenizerJson& file) {
  merges.expect_array();
  file.merges = MergeTable(document.merges.size());
  std::string merged;
  uint32_t rank = 0;
  for (const auto& [left, right] : document.merges) {
    const auto id_of = [&, &l = left, &r = right](const std::string& text, const char* what) {
      const int32_t id = file.vocabulary.find(text);
      if (id < 0)
        merges.fail_at(concat("[", rank, "]"),
                       concat("is ", quoted_json(json::array({l, r})), ": ", what, " is not in model.vocab"));
      return id;
    };
    merged.assign(left) += right;
    const int32_t left_id = id_of(left, "its left part"), right_id = id_of(right, "its right part");
    file.merges.insert(left_id, right_id, {rank, id_of(merged, "its result")});
    ++rank;
  }
}

void read_model(const JsonNode& model, const TokenizerJsonDocument& document, TokenizerJson& file) {
  model.expect_object();
  // Files of the first versions have no type.
  const auto type = model.find("type");
  if (type && type->text() != "BPE")
    type->refuse(concat("is ", as_json(type->text()), ", which is not supported; only BPE is"));
  if (const auto dropout = model.find("dropout"); dropout && dropout->value() != 0) {
    dropout->refuse(concat("is ", quoted_json(dropout->value()), ", which is not supported: tokens would be random"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = model.find(key); affix && !affix->text().empty())
      affix->refuse(concat("is ", as_json(affix->text()), ", which is not supported"));
  }
  read_vocabulary(model.at("vocab"), document, file);
  read_merges(model.at("merges"), document, file);
  file.fuse_unknown = model.boolean("fuse_unk", false);
  file.byte_fallback = model.boolean("byte_fallback", false);
  file.ignore_merges = model.boolean("ignore_merges", false);
  if (const auto unknown = model.find("unk_token"); unknown && !unknown->text().empty()) {
    const int32_t id = file.vocabulary.find(unknown->text());
    if (id < 0) unknown->fail(concat("is ", as_json(unknown->text()), ", which is not in model.vocab"));
    file.unknown_id = id;
  }
}

/// Ids of tokens that are not in the vocabulary follow it in the order of the list: so the HF library counts, whatever
/// the file says. A file that says something else is damaged.
void read_added_tokens(const JsonNode& list, TokenizerJson& file) {
  list.expect_array();
  int64_t last = -1;
  std::set<int32_t> seen;
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonNode node = list.at(i);
    AddedToken token;
    token.content = node.at("content").text();
    if (token.content.empty()) node.at("content").fail("is empty");
    token.single_word = node.boolean("single_word", false);
    token.lstrip = node.boolean("lstrip", false);
    token.rstrip = node.boolean("rstrip", false);
    token.special = node.boolean("special", false);
    token.normalized = node.boolean("normalized", !token.special);
    const int64_t id = node.at("id").integer(std::numeric_limits<int32_t>::max() - 1);
    const int32_t known = file.vocabulary.find(token.content);
    const int64_t expected = known >= 0 ? known : std::max(last + 1, file.model_tokens);
    if (id != expected) {
      node.at("id").fail(
          concat("is ", id, ", but ", as_json(token.content),
                 known >= 0 ? " stands in the vocabulary as " : " is the next after the vocabulary: ", expected));
    }
    token.id = static_cast<int32_t>(id);
    last = std::max(last, id);
    if (known < 0 && file.vocabulary.insert(token.content, token.id) != Vocabulary::Added::kYes) {
      node.at("id").fail(concat("is ", id, ", as is that of ", as_json(file.vocabulary.text_of(token.id))));
    }
    if (!seen.insert(token.id).second) node.fail(concat("adds ", as_json(token.content), " a second time"));
    file.added_tokens.push_back(std::move(token));
  }
}

/// The one token that the template puts before or behind a text.
std::optional<int32_t> template_token(const JsonNode& post_processor, const std::vector<int64_t>& ids,
                                      const char* place, const TokenizerJson& file) {
  if (ids.empty()) return std::nullopt;
  if (ids.size() > 1)
    post_processor.refuse(concat("puts ", ids.size(), " tokens ", place, " a text; at most one is supported"));
  if (ids.front() >= static_cast<int64_t>(file.vocabulary.id_end()) ||
      !file.vocabulary.has(static_cast<int32_t>(ids.front()))) {
    post_processor.fail(concat("puts the id ", ids.front(), " ", place, " a text, which no token has"));
  }
  return static_cast<int32_t>(ids.front());
}

}  // namespace

void add_tokens(const std::vector<AddedToken>& tokens, TokenizerJson& file) {
  std::set<std::string> there;
  int64_t last = -1;
  for (const AddedToken& token : file.added_tokens) {
    there.insert(token.content);
    last = std::max<int64_t>(last, token.id);
  }
  for (AddedToken token : tokens) {
    if (token.content.empty() || !there.insert(token.content).second) continue;
    token.id = file.vocabulary.find(token.content);
    if (token.id < 0) {
      token.id = static_cast<int32_t>(std::max(last + 1, file.model_tokens));
      while (file.vocabulary.has(token.id)) ++token.id;  // a vocabulary with holes
      file.vocabulary.insert(token.content, token.id);
    }
    last = std::max<int64_t>(last, token.id);
    file.added_tokens.push_back(std::move(token));
  }
}

TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& where) {
  const TokenizerJsonDocument document = parse_tokenizer_json_document(bytes, where);
  const JsonNode root(document.rest, "", where);
  root.expect_object();
  const auto node_or_null = [&](const char* key) {
    const auto found = document.rest.find(key);
    static const json none;
    return JsonNode(found == document.rest.end() ? none : *found, key, where);
  };
  TokenizerJson file;
  file.normalizers = read_normalizers(node_or_null("normalizer"));
  file.pre_tokenizers = read_pre_tokenizers(node_or_null("pre_tokenizer"));
  file.is_byte_level =
      !file.pre_tokenizers.empty() && std::holds_alternative<ByteLevelNode>(file.pre_tokenizers.back());
  file.decoders = read_decoders(node_or_null("decoder"));
  const JsonNode post_processor = node_or_null("post_processor");
  const PostProcessing post = read_post_processors(post_processor);
  file.offset_trims = post.offset_trims;
  read_model(root.at("model"), document, file);
  file.model_tokens = static_cast<int64_t>(file.vocabulary.size());
  if (const auto added = root.find("added_tokens")) read_added_tokens(*added, file);
  file.prefix_id = template_token(post_processor, post.prefix_ids, "before", file);
  file.suffix_id = template_token(post_processor, post.suffix_ids, "behind", file);
  return file;
}

}  // namespace moe
