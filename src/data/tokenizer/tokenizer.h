#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe {

/// Token ids and, for each, the bytes [begin, end) of the original text that it came from.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<std::pair<int64_t, int64_t>> offsets;
  std::vector<int32_t> kept_as_text;  ///< special tokens that were spelled in the text and stayed text, in its order
};

/// Whether text such as "<|im_end|>" or "</s>" becomes the special token or stays text (`encode_special_tokens` of the
/// HF library). Prompts and documents of users are kAsText; a rendered chat template is kParse.
enum class SpecialTokens { kAsText, kParse };

/// "text" or nothing, and "parse", as a job's data sources have it. Throws InvalidArgument for another name.
SpecialTokens special_tokens_named(std::string_view name);

/// Turns ids that come one by one into text. Holds back what later ids may still change; a broken character becomes
/// U+FFFD. One thread uses it, and its Tokenizer outlives it.
class TextDecoder {
 public:
  virtual ~TextDecoder() = default;

  /// Appends the text that this id completes. An id that no token has is nothing: an embedding may be padded beyond its
  /// tokenizer. Throws InvalidArgument for a negative one.
  virtual void push(int32_t id, std::string& text) = 0;
  /// Appends what was held back. Nothing may be pushed afterwards.
  virtual void finish(std::string& text) = 0;
};

/// Text <-> ids as the model directory's tokenizer file and the files beside it say. Immutable; safe to share between
/// threads.
class Tokenizer {
 public:
  /// Reads `tokenizer.json` of a model directory or, where there is none, `tokenizer.model`, and the files that add
  /// tokens and roles to either (TokenizerSettings). A damaged file is an error, never a reason to take another one.
  /// Throws InvalidArgument that names the file and what is wrong.
  static std::shared_ptr<const Tokenizer> from_directory(const std::filesystem::path& directory);
  /// The file that from_directory would read, if the directory has one.
  static std::optional<std::filesystem::path> file_in(const std::filesystem::path& directory);

  virtual ~Tokenizer() = default;

  /// No token is added to what the text holds. Throws InvalidArgument with the byte offset if `text` is not UTF-8.
  virtual Encoding encode(std::string_view text, SpecialTokens specials = SpecialTokens::kAsText) const = 0;
  /// Encodes documents on `threads` threads, the caller's among them; results in input order. Throws the error of the
  /// first text that has one, with its index.
  std::vector<Encoding> encode_batch(std::span<const std::string_view> texts, int threads,
                                     SpecialTokens specials = SpecialTokens::kAsText) const;

  /// `skip_special_tokens` leaves special tokens out (SentencePiece never prints its control pieces).
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens = false) const;
  virtual std::unique_ptr<TextDecoder> decoder(bool skip_special_tokens) const = 0;

  /// One more than the largest id.
  virtual int64_t vocab_size() const = 0;
  virtual bool has_token(int32_t id) const = 0;
  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  /// As the file spells it. Throws InvalidArgument if the vocabulary has no such id.
  virtual std::string_view id_to_token(int32_t id) const = 0;

  /// The token that the tokenizer itself puts before a document; none if it adds none (Qwen, Phi, SmolLM2).
  virtual std::optional<int32_t> bos_id() const = 0;
  /// The token that the tokenizer itself puts behind a document: most add none, whether or not they have an EOS.
  virtual std::optional<int32_t> suffix_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  /// The strings that chat templates print; empty if there is none.
  virtual std::string bos_token() const = 0;
  virtual std::string eos_token() const = 0;

  /// XXH3 of the files that decide about the ids.
  virtual std::string digest() const = 0;
};

/// Text of ids that come one by one, as strings: a TextDecoder that returns what it shows.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer, bool skip_special_tokens = false)
      : decoder_(tokenizer.decoder(skip_special_tokens)) {}

  /// The text that this id completes.
  std::string push(int32_t id);
  /// What was held back.
  std::string finish();

 private:
  std::unique_ptr<TextDecoder> decoder_;
};

}  // namespace moe
