#include "data/tokenizer_json_reader.h"

#include <algorithm>
#include <limits>

#include "common/error.h"
#include "common/json_text.h"
#include "data/byte_level.h"
#include "data/tokenizer_json_nodes.h"

namespace moe {
namespace {

using nlohmann::json;

/// A vocabulary may have holes, but not so many that a small file asks for much memory.
int64_t largest_id(size_t tokens) { return static_cast<int64_t>(2 * tokens + 65536); }

std::string quoted(const std::string& text) { return quoted_json(json(text)); }

void read_vocabulary(const JsonNode& vocab, TokenizerJson& file) {
  vocab.expect_object();
  const int64_t most = largest_id(vocab.size());
  for (auto entry = vocab.value().begin(); entry != vocab.value().end(); ++entry) {
    if (!entry->is_number_unsigned() || entry->get<uint64_t>() > static_cast<uint64_t>(most)) {
      vocab.entry(entry.key()).fail(concat("is ", quoted_json(*entry), "; expected an id from 0 to ", most));
    }
    const auto id = entry->get<int32_t>();
    if (file.vocabulary.insert(entry.key(), id) == Vocabulary::Added::kIdIsThere) {
      vocab.entry(entry.key()).fail(concat("has the id ", id, ", as has ", quoted(file.vocabulary.text_of(id))));
    }
    if (!file.is_byte_level) {
      file.model.insert(entry.key(), id);
    } else if (const auto bytes = byte_level_bytes(entry.key())) {
      file.model.insert(*bytes, id);
    }
  }
  if (file.vocabulary.size() == 0) vocab.fail("is empty");
}

/// "l r" or ["l", "r"].
std::pair<std::string_view, std::string_view> merge_parts(const JsonNode& merges, size_t i) {
  const json& merge = merges.value()[i];
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (!merge.is_string()) merges.at(i).fail(concat("is ", quoted_json(merge), "; expected \"l r\" or [\"l\", \"r\"]"));
  const std::string_view text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    merges.at(i).fail(concat("is ", quoted_json(merge), "; expected two tokens with one space between"));
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_merges(const JsonNode& merges, TokenizerJson& file) {
  merges.expect_array();
  file.merges = MergeTable(merges.size());
  std::string merged;
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto [left, right] = merge_parts(merges, i);
    const auto id_of = [&](std::string_view text, const char* what) {
      const int32_t id = file.vocabulary.find(text);
      if (id < 0) merges.at(i).fail(concat("is ", quoted_json(merges.value()[i]), ": ", what, " is not in model.vocab"));
      return id;
    };
    merged.assign(left) += right;
    const int32_t left_id = id_of(left, "its left part"), right_id = id_of(right, "its right part");
    file.merges.insert(left_id, right_id, {static_cast<uint32_t>(i), id_of(merged, "its result")});
  }
}

void read_model(const JsonNode& model, TokenizerJson& file) {
  model.expect_object();
  // Files of the first versions have no type.
  const auto type = model.find("type");
  if (type && type->text() != "BPE") type->refuse(concat("is ", quoted(type->text()), ", which is not supported; only BPE is"));
  if (const auto dropout = model.find("dropout"); dropout && dropout->value() != 0) {
    dropout->refuse(concat("is ", quoted_json(dropout->value()), ", which is not supported: tokens would be random"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = model.find(key); affix && !affix->text().empty()) affix->refuse(concat("is ", quoted(affix->text()), ", which is not supported"));
  }
  read_vocabulary(model.at("vocab"), file);
  read_merges(model.at("merges"), file);
  file.fuse_unknown = model.boolean("fuse_unk", false);
  file.byte_fallback = model.boolean("byte_fallback", false);
  file.ignore_merges = model.boolean("ignore_merges", false);
  if (const auto unknown = model.find("unk_token"); unknown && !unknown->text().empty()) {
    const int32_t id = file.vocabulary.find(unknown->text());
    if (id < 0) unknown->fail(concat("is ", quoted(unknown->text()), ", which is not in model.vocab"));
    file.unknown_id = id;
  }
}

/// Ids of tokens that are not in the vocabulary follow it in the order of the list: so the HF library counts, whatever
/// the file says. A file that says something else is damaged.
void read_added_tokens(const JsonNode& list, TokenizerJson& file) {
  list.expect_array();
  const auto model_size = static_cast<int64_t>(file.vocabulary.size());
  int64_t last = -1;
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
    const int64_t expected = known >= 0 ? known : last >= model_size ? last + 1 : model_size;
    if (id != expected) {
      node.at("id").fail(concat("is ", id, ", but ", quoted(token.content),
                                known >= 0 ? " stands in the vocabulary as " : " is the next after the vocabulary: ", expected));
    }
    token.id = static_cast<int32_t>(id);
    last = std::max(last, id);
    if (known < 0 && file.vocabulary.insert(token.content, token.id) != Vocabulary::Added::kYes) {
      node.at("id").fail(concat("is ", id, ", as is that of ", quoted(file.vocabulary.text_of(token.id))));
    }
    const auto same = std::find_if(file.added_tokens.begin(), file.added_tokens.end(), [&](const AddedToken& other) { return other.id == token.id; });
    if (same != file.added_tokens.end()) node.fail(concat("adds ", quoted(token.content), " a second time"));
    file.added_tokens.push_back(std::move(token));
  }
}

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& where) {
  const json document = parse_json(bytes, where);
  const JsonNode root(document, "", where);
  root.expect_object();
  const auto node_or_null = [&](const char* key) {
    const auto found = document.find(key);
    static const json none;
    return JsonNode(found == document.end() ? none : *found, key, where);
  };
  TokenizerJson file;
  file.normalizers = read_normalizers(node_or_null("normalizer"));
  file.pre_tokenizers = read_pre_tokenizers(node_or_null("pre_tokenizer"));
  file.is_byte_level = !file.pre_tokenizers.empty() && std::holds_alternative<ByteLevelNode>(file.pre_tokenizers.back());
  file.decoders = read_decoders(node_or_null("decoder"));
  const JsonNode post_processor = node_or_null("post_processor");
  const PostProcessing post = read_post_processors(post_processor);
  file.offset_trims = post.offset_trims;
  read_model(root.at("model"), file);
  if (const auto added = root.find("added_tokens")) read_added_tokens(*added, file);
  if (post.prefix_ids.size() > 1) {
    post_processor.refuse(concat("puts ", post.prefix_ids.size(), " tokens before a text; at most one is supported"));
  }
  if (!post.prefix_ids.empty()) {
    const int64_t id = post.prefix_ids.front();
    if (id >= static_cast<int64_t>(file.vocabulary.id_end()) || !file.vocabulary.has(static_cast<int32_t>(id))) {
      post_processor.fail(concat("puts the id ", id, " before a text, which no token has"));
    }
    file.prefix_id = static_cast<int32_t>(id);
  }
  return file;
}

}  // namespace moe
