#include "data/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_text.h"
#include "common/log.h"
#include "data/tokenizer/unicode_classes.h"

namespace moe {
namespace {

constexpr char32_t kMappedSpace = 0x120;  // of the byte map
constexpr size_t kMostText = size_t{1} << 30;
constexpr size_t kMostReserved = size_t{1} << 16;  // tokens of one text

/// Characters at the beginning and at the end of a token that offsets leave out.
std::pair<uint16_t, uint16_t> count_spaces(std::string_view token) {
  const auto is_space = [](char32_t c) { return c == kMappedSpace || UnicodeClasses::get().is_space(c); };
  constexpr uint16_t kMost = std::numeric_limits<uint16_t>::max();
  uint16_t leading = 0, trailing = 0;
  for (size_t at = 0; at < token.size() && leading < kMost; ++leading) {
    const CodePoint c = code_point_at(token, at);
    if (!is_space(c.value)) break;
    at += c.size;
  }
  for (size_t end = token.size(); end > 0 && trailing < kMost; ++trailing) {
    const CodePoint c = code_point_before(token, end);
    if (!is_space(c.value)) break;
    end -= c.size;
  }
  return {leading, trailing};
}

/// The offsets' rule of a ByteLevel post-processor; it counts characters of the text.
SourceSpan without_spaces(SourceSpan span, std::string_view text, std::pair<uint16_t, uint16_t> spaces,
                          bool keeps_prefix) {
  auto [leading, trailing] = spaces;
  if (keeps_prefix && leading == 1) leading = 0;
  for (; leading > 0 && span.begin < span.end; --leading)
    span.begin += static_cast<uint32_t>(code_point_at(text, span.begin).size);
  span.begin = std::min(span.begin, span.end);
  uint32_t end = span.end;
  for (; trailing > 0 && end > 0; --trailing) end -= static_cast<uint32_t>(code_point_before(text, end).size);
  if (trailing == 0) span.end = std::max(end, span.begin);
  return span;
}

}  // namespace

/// Memory that encoding reuses.
struct JsonTokenizer::Workspace {
  AlignedBuffer normalized[2];
  std::vector<PreTokenizer::Scratch> scratch;
  std::vector<AddedTokenMatcher::Piece> raw_pieces, normalized_pieces;
  BpeWords::Workspace words;
};

/// A workspace out of the tokenizer's idle ones, or a new one, for as long as one text takes.
class JsonTokenizer::Lease {
 public:
  explicit Lease(const JsonTokenizer& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.mutex_);
    if (owner_.idle_.empty()) {
      workspace_ = std::make_unique<Workspace>();
    } else {
      workspace_ = std::move(owner_.idle_.back());
      owner_.idle_.pop_back();
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(workspace_));
  }

  Workspace& operator*() { return *workspace_; }

 private:
  const JsonTokenizer& owner_;
  std::unique_ptr<Workspace> workspace_;
};

/// One text on its way through the nodes.
class JsonTokenizer::Run final : public WordSink {
 public:
  Run(const JsonTokenizer& owner, std::string_view text, SpecialTokens specials, Workspace& workspace)
      : owner_(owner), text_(text), specials_(specials), workspace_(workspace) {}

  Encoding encode() {
    owner_.raw_matcher_.split(text_, specials_, workspace_.raw_pieces, &encoding_.kept_as_text);
    const size_t expected = std::min(text_.size() / 3, kMostReserved);
    encoding_.ids.reserve(expected);
    encoding_.offsets.reserve(expected);
    for (const AddedTokenMatcher::Piece& piece : workspace_.raw_pieces) {
      const AlignedText part{text_.substr(piece.begin, piece.end - piece.begin), nullptr,
                             static_cast<uint32_t>(piece.begin)};
      if (piece.token != nullptr) {
        add_token(*piece.token, part);
      } else {
        encode_part(owner_.normalizer_.apply(part, workspace_.normalized));
      }
    }
    return std::move(encoding_);
  }

  void take(const AlignedText& word) override {
    for (const WordToken& token : owner_.words_.encode(word.bytes, workspace_.words)) {
      add(token.id, word.source_of(token.begin, token.end),
          owner_.space_counts_.empty() ? Spaces{} : owner_.space_counts_[token.id]);
    }
  }

 private:
  using Spaces = std::pair<uint16_t, uint16_t>;

  void encode_part(const AlignedText& part) {
    owner_.normalized_matcher_.split(part.bytes, specials_, workspace_.normalized_pieces, &encoding_.kept_as_text);
    for (const AddedTokenMatcher::Piece& piece : workspace_.normalized_pieces) {
      const AlignedText text = part.substr(piece.begin, piece.end - piece.begin);
      if (piece.token != nullptr) {
        add_token(*piece.token, text);
      } else {
        owner_.pre_tokenizer_.split(text, workspace_.scratch, *this);
      }
    }
  }

  void add_token(const AddedToken& token, const AlignedText& matched) {
    add(token.id, matched.source_of(0, matched.bytes.size()),
        owner_.offset_trims_.empty() ? Spaces{} : count_spaces(matched.bytes));
  }

  void add(int32_t id, SourceSpan span, Spaces spaces) {
    if (spaces.first > 0 || spaces.second > 0) {
      for (const bool has_prefix : owner_.offset_trims_) {
        span = without_spaces(span, text_, spaces, has_prefix && (encoding_.ids.empty() || span.begin == 0));
      }
    }
    encoding_.ids.push_back(id);
    encoding_.offsets.emplace_back(span.begin, span.end);
  }

  const JsonTokenizer& owner_;
  std::string_view text_;
  SpecialTokens specials_;
  Workspace& workspace_;
  Encoding encoding_;
};

namespace {

/// The file with the tokens of those beside it.
TokenizerJson parsed(std::string_view bytes, const std::string& where, const TokenizerSettings& settings) {
  TokenizerJson file = parse_tokenizer_json(bytes, where);
  file.tokens_of_file = file.added_tokens.size();
  add_tokens(settings.added, file);
  add_tokens(settings.special, file);
  // Here the lines of transformers differ; the other tokenizers of 4 go by the template, too.
  const auto differs = [](const std::optional<bool>& flag, const std::optional<int32_t>& id) {
    return flag && *flag != id.has_value();
  };
  if (settings.tokenizer_class.starts_with("Llama") &&
      (differs(settings.adds_bos, file.prefix_id) || differs(settings.adds_eos, file.suffix_id))) {
    log_info(concat(
        "event=tokenizer_flags_not_read file=", where,
        " reason=\"add_bos_token and add_eos_token of tokenizer_config.json contradict the template of tokenizer.json, "
        "which counts; transformers 4 goes by the flags, 5 by the template\""));
  }
  return file;
}

BpeWords::Options options_of(const TokenizerJson& file) {
  return {file.is_byte_level, file.fuse_unknown, file.byte_fallback, file.ignore_merges, file.unknown_id};
}

/// The texts of tokens through the decoder nodes.
class NodesDecoder final : public TextDecoder {
 public:
  NodesDecoder(const JsonTokenizer& tokenizer, const std::vector<DecoderNode>& nodes,
               const std::vector<bool>* is_left_out)
      : tokenizer_(tokenizer), nodes_(nodes), is_left_out_(is_left_out) {}

  void push(int32_t id, std::string& text) override {
    // Rows beyond the tokenizer, to which an embedding is padded, are nothing; so are holes among its ids.
    if (id >= 0 && !tokenizer_.has_token(id)) return;
    const std::string_view token = tokenizer_.id_to_token(id);
    if (is_left_out_ == nullptr || !(*is_left_out_)[id]) nodes_.push(std::string(token), text);
  }
  void finish(std::string& text) override { nodes_.finish(text); }

 private:
  const JsonTokenizer& tokenizer_;
  TokenDecoders nodes_;
  const std::vector<bool>* is_left_out_;
};

}  // namespace

JsonTokenizer::JsonTokenizer(std::string_view file_bytes, const std::string& where, const TokenizerSettings& settings)
    : JsonTokenizer(parsed(file_bytes, where, settings), file_bytes, where, settings) {}

JsonTokenizer::JsonTokenizer(TokenizerJson file, std::string_view file_bytes, const std::string& where,
                             const TokenizerSettings& settings)
    : vocabulary_(std::move(file.vocabulary)),
      normalizer_(std::move(file.normalizers)),
      pre_tokenizer_(std::move(file.pre_tokenizers)),
      words_(std::move(file.model), std::move(file.merges), options_of(file)),
      added_tokens_(std::move(file.added_tokens)),
      is_special_(vocabulary_.id_end()),
      offset_trims_(std::move(file.offset_trims)),
      decoders_(std::move(file.decoders)),
      prefix_id_(file.prefix_id),
      suffix_id_(file.suffix_id),
      bos_token_(TokenizerSettings::text_of(settings.bos, "")),
      eos_token_(TokenizerSettings::text_of(settings.eos, "")) {
  AlignedBuffer buffers[2];
  std::set<std::string_view> specials;
  for (const AddedToken& token : added_tokens_) {
    if (token.special) specials.insert(token.content);
  }
  // Of equal patterns the first counts, and special tokens come first.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : added_tokens_) {
      if (token.special != special) continue;
      if (!token.normalized) {
        is_special_[token.id] = special;
        raw_matcher_.add(token.content, token);
        continue;
      }
      const std::string_view pattern = normalizer_.apply({token.content, nullptr, 0}, buffers).bytes;
      if (pattern.empty())
        throw InvalidArgument(
            concat(where, ": added_tokens: ", quoted_json(token.content), " is empty once it is normalised"));
      normalized_matcher_.add(pattern, token);
      normalized_texts_.emplace(token.id, pattern);
      is_special_[token.id] = specials.contains(pattern);
    }
  }
  if (!offset_trims_.empty()) {
    for (size_t id = 0; id < vocabulary_.id_end(); ++id)
      space_counts_.push_back(count_spaces(vocabulary_.text_of(static_cast<int32_t>(id))));
  }
  if (!eos_token_.empty()) eos_id_ = token_to_id(eos_token_);
  const std::vector<AddedToken> beside(added_tokens_.begin() + static_cast<std::ptrdiff_t>(file.tokens_of_file),
                                       added_tokens_.end());
  digest_ = xxh3_hex(concat(xxh3_hex(file_bytes), " ", eos_token_, TokenizerSettings::describe(beside)));
}

JsonTokenizer::~JsonTokenizer() = default;

Encoding JsonTokenizer::encode(std::string_view text, SpecialTokens specials) const {
  if (text.size() > kMostText)
    throw InvalidArgument(concat("a text of ", text.size(), " bytes; at most ", kMostText, " can be encoded at once"));
  require_utf8(text);
  Lease workspace(*this);
  return Run(*this, text, specials, *workspace).encode();
}

std::unique_ptr<TextDecoder> JsonTokenizer::decoder(bool skip_special_tokens) const {
  return std::make_unique<NodesDecoder>(*this, decoders_, skip_special_tokens ? &is_special_ : nullptr);
}

std::optional<int32_t> JsonTokenizer::token_to_id(std::string_view token) const {
  const int32_t id = vocabulary_.find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string_view JsonTokenizer::id_to_token(int32_t id) const {
  if (!vocabulary_.has(id))
    throw InvalidArgument(concat("token id ", id, " is not in the vocabulary of ", vocab_size()));
  const auto normalized = normalized_texts_.find(id);
  return normalized != normalized_texts_.end() ? normalized->second : vocabulary_.text_of(id);
}

}  // namespace moe
