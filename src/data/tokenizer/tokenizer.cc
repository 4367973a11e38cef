#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "common/error.h"
#include "common/file_io.h"
#include "data/tokenizer/sentencepiece_tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "data/tokenizer/tokenizer_settings.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Texts that a thread takes at a time: few where there are few, so that all threads end together.
size_t chunk_of(size_t texts, int threads) {
  return std::clamp<size_t>(texts / (16 * static_cast<size_t>(threads)), 1, 16);
}

}  // namespace

SpecialTokens special_tokens_named(std::string_view name) {
  if (name.empty() || name == "text") return SpecialTokens::kAsText;
  if (name != "parse") throw InvalidArgument(concat("special_tokens '", name, "' is unknown; known: text, parse"));
  return SpecialTokens::kParse;
}

std::optional<fs::path> Tokenizer::file_in(const fs::path& directory) {
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (is_there(directory / name)) return directory / name;
  }
  return std::nullopt;
}

std::shared_ptr<const Tokenizer> Tokenizer::from_directory(const fs::path& directory) {
  const std::optional<fs::path> file = file_in(directory);
  if (!file) {
    throw InvalidArgument(concat(directory.string(),
                                 ": there is no tokenizer.json and no tokenizer.model; copy the model's tokenizer file "
                                 "there, or give the data as {\"ids\"}"));
  }
  const TokenizerSettings settings = TokenizerSettings::read(directory);
  if (file->extension() == ".model")
    return std::make_shared<SentencePieceTokenizer>(read_file(*file), file->string(), settings);
  return std::make_shared<JsonTokenizer>(read_file(*file), file->string(), settings);
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::string text;
  const std::unique_ptr<TextDecoder> stream = decoder(skip_special_tokens);
  for (const int32_t id : ids) stream->push(id, text);
  stream->finish(text);
  return text;
}

std::vector<Encoding> Tokenizer::encode_batch(std::span<const std::string_view> texts, int threads,
                                              SpecialTokens specials) const {
  if (threads < 1) throw InvalidArgument(concat("encode_batch: threads is ", threads, "; expected 1 or more"));
  std::vector<Encoding> encodings(texts.size());
  std::vector<std::exception_ptr> errors(texts.size());
  const size_t chunk = chunk_of(texts.size(), threads);
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t begin = next.fetch_add(chunk); begin < texts.size(); begin = next.fetch_add(chunk)) {
      for (size_t i = begin; i < std::min(begin + chunk, texts.size()); ++i) {
        try {
          encodings[i] = encode(texts[i], specials);
        } catch (const InvalidArgument& error) {
          errors[i] = std::make_exception_ptr(InvalidArgument(concat("text ", i, " of the batch: ", error.what())));
        } catch (...) {
          errors[i] = std::current_exception();
        }
      }
    }
  };
  {
    std::vector<std::jthread> pool;
    const size_t useful = std::min(static_cast<size_t>(threads), (texts.size() + chunk - 1) / chunk);
    for (size_t i = 1; i < useful; ++i) pool.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return encodings;
}

std::string TextStream::push(int32_t id) {
  std::string text;
  decoder_->push(id, text);
  return text;
}

std::string TextStream::finish() {
  std::string text;
  decoder_->finish(text);
  return text;
}

}  // namespace moe
