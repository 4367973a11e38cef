#include "data/tokenizer/tokenizer_json_document.h"

#include <limits>

#include "common/error.h"
#include "common/json_text.h"

namespace moe {
namespace {

using nlohmann::json;

/// Takes the parser's events. Returns false for what parse_json refuses with a message of its own.
class Events final : public nlohmann::json_sax<json> {
 public:
  Events(TokenizerJsonDocument& document, const std::string& where) : document_(document), where_(where) {}

  bool null() override { return scalar(json()); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(value); }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool binary(binary_t&) override { return false; }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kVocabulary) return scalar(value);
    if (value > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) refuse_id(quoted_json(value));
    document_.vocabulary.emplace_back(std::move(key_), static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMerges) return add_merge(value);
    if (place_ != Place::kPair) return scalar(std::move(value));
    if (parts_ == 2) refuse_pair(value);
    if (parts_ == 0) document_.merges.emplace_back(std::move(value), "");
    if (parts_ == 1) document_.merges.back().second = std::move(value);
    ++parts_;
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTree && !open_.back()->emplace(value, nullptr).second) return false;
    key_ = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    refuse_outside_tree(json::object());
    if (is_model_member("vocab")) {
      place_ = Place::kVocabulary;
      document_.has_vocabulary = true;
    }
    return open(json::object());
  }

  bool start_array(size_t) override {
    if (place_ != Place::kMerges) refuse_outside_tree(json::array());
    if (place_ == Place::kMerges) {
      place_ = Place::kPair;
      parts_ = 0;
      return true;
    }
    if (is_model_member("merges")) {
      place_ = Place::kMerges;
      document_.has_merges = true;
    }
    return open(json::array());
  }

  bool end_object() override { return close(); }
  bool end_array() override {
    if (place_ != Place::kPair) return close();
    if (parts_ != 2) refuse_pair(nullptr);
    place_ = Place::kMerges;
    return true;
  }

 private:
  enum class Place { kTree, kVocabulary, kMerges, kPair };

  /// Whether the value that begins now is this member of the document's `model`.
  bool is_model_member(const char* name) const {
    return open_.size() == 2 && open_.back() == model_ && model_ != nullptr && key_ == name;
  }

  [[noreturn]] void refuse_id(const std::string& what) const {
    throw Corruption(concat(where_, ": model.vocab[", quoted_json(key_), "] is ", what, "; expected an id from 0 to ",
                            std::numeric_limits<int32_t>::max()));
  }

  [[noreturn]] void refuse_merge(size_t index, const json& value) const {
    throw Corruption(concat(where_, ": model.merges[", index, "] is ", quoted_json(value),
                            "; expected \"l r\" (two tokens with one space between) or [\"l\", \"r\"]"));
  }
  [[noreturn]] void refuse_merge(const json& value) const { refuse_merge(document_.merges.size(), value); }

  /// `next` follows the parts of the pair that is open; null: nothing does.
  [[noreturn]] void refuse_pair(json next) const {
    json pair = json::array();
    if (parts_ > 0) pair.push_back(document_.merges.back().first);
    if (parts_ > 1) pair.push_back(document_.merges.back().second);
    if (!next.is_null()) pair.push_back(std::move(next));
    // A pair that is not whole stands in the list already.
    refuse_merge(document_.merges.size() - (parts_ > 0 ? 1 : 0), pair);
  }

  /// What may not stand where it does, unless that is the tree.
  void refuse_outside_tree(const json& value) const {
    if (place_ == Place::kVocabulary)
      refuse_id(value.is_object() ? "an object" : value.is_array() ? "a list" : quoted_json(value));
    if (place_ == Place::kMerges) refuse_merge(value);
    if (place_ == Place::kPair) refuse_pair(value);
  }

  bool add_merge(const std::string& text) {
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) refuse_merge(text);
    document_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }

  bool scalar(json value) {
    refuse_outside_tree(value);
    put(std::move(value));
    return true;
  }

  json* put(json value) {
    if (open_.empty()) return &(document_.rest = std::move(value));
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool open(json value) {
    if (open_.size() >= static_cast<size_t>(kMaxJsonDepth)) return false;
    const bool is_model = open_.size() == 1 && document_.rest.is_object() && key_ == "model";
    open_.push_back(put(std::move(value)));
    if (is_model) model_ = open_.back();
    return true;
  }

  bool close() {
    open_.pop_back();
    place_ = Place::kTree;
    return true;
  }

  TokenizerJsonDocument& document_;
  const std::string& where_;
  std::vector<json*>
      open_;  ///< objects and lists that are not complete; a parent does not change while a child is open
  json* model_ = nullptr;
  std::string key_;
  Place place_ = Place::kTree;
  int parts_ = 0;  ///< of the pair that is open
};

}  // namespace

TokenizerJsonDocument parse_tokenizer_json_document(std::string_view bytes, const std::string& where) {
  TokenizerJsonDocument document;
  Events events(document, where);
  // The library takes a NUL for the end.
  if (bytes.find('\0') == std::string_view::npos && json::sax_parse(bytes.begin(), bytes.end(), &events))
    return document;
  parse_json(bytes, where);
  throw Internal(where + ": read twice, with different results");
}

}  // namespace moe
