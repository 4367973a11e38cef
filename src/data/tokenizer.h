#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe {

/// Token ids and, for each, the bytes [begin, end) of the original text that it came from.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<std::pair<int64_t, int64_t>> offsets;
};

/// Text <-> ids as the model directory's tokenizer file says. Immutable; safe to share between threads.
class Tokenizer {
 public:
  /// Reads `tokenizer.model` of a model directory. Throws InvalidArgument that names the file and what is wrong.
  static std::shared_ptr<const Tokenizer> from_directory(const std::filesystem::path& directory);

  virtual ~Tokenizer() = default;

  /// Control tokens are never produced from text, and none is added. Throws InvalidArgument with the byte offset if
  /// `text` is not UTF-8.
  virtual Encoding encode(std::string_view text) const = 0;
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;

  virtual int64_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  /// XXH3 of the tokenizer file.
  virtual std::string digest() const = 0;
};

/// Text of ids that come one by one: holds back a character whose bytes are not all there.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The text that this id completes.
  std::string push(int32_t id);
  /// What was held back.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t shown_ = 0;
};

}  // namespace moe
