#include "data/tokenizer.h"

#include "common/error.h"
#include "common/file_io.h"
#include "data/sentencepiece_tokenizer.h"

namespace moe {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_directory(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer.model";
  if (std::filesystem::exists(file)) return std::make_shared<SentencePieceTokenizer>(read_file(file), file.string());
  if (std::filesystem::exists(directory / "tokenizer.json")) {
    throw InvalidArgument(
        concat(directory.string(),
               ": tokenizer.json is not supported yet, and there is no tokenizer.model; give the data as {\"ids\"}"));
  }
  throw InvalidArgument(
      concat(directory.string(),
             ": there is no tokenizer.model; copy the model's tokenizer file there, or give the data as {\"ids\"}"));
}

std::string TextStream::push(int32_t id) {
  ids_.push_back(id);
  std::string text = tokenizer_.decode(ids_);
  // Bytes whose character is not complete yet decode as U+FFFD: they may change with the next id.
  while (text.size() >= kReplacement.size() &&
         text.compare(text.size() - kReplacement.size(), kReplacement.size(), kReplacement) == 0) {
    text.resize(text.size() - kReplacement.size());
  }
  if (text.size() <= shown_) return "";
  const std::string fresh = text.substr(shown_);
  shown_ = text.size();
  return fresh;
}

std::string TextStream::finish() {
  const std::string text = tokenizer_.decode(ids_);
  const std::string rest = text.size() > shown_ ? text.substr(shown_) : "";
  shown_ = text.size();
  return rest;
}

}  // namespace moe
