#include "convert/calibration_overlap.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/log.h"
#include "data/documents.h"
#include "data/word_ngrams.h"

namespace moe {
namespace {

/// Hash of an n-gram of the calibration text -> whether a file has it.
using Ngrams = std::unordered_map<uint64_t, bool>;

/// The tokens of a document and, where it is known, the one after them: inputs lack a document's last token.
std::vector<int32_t> ids_of(const TextRows& text, int64_t begin, int64_t end) {
  const int64_t* const tokens = text.tokens_T.const_data_ptr<int64_t>();
  std::vector<int32_t> ids(tokens + begin, tokens + end);
  const int64_t next = text.labels_T.const_data_ptr<int64_t>()[end - 1];
  if (next >= 0) ids.push_back(static_cast<int32_t>(next));
  return ids;
}

/// Hashes of this rank's documents, as bytes.
std::string ngrams_of(const TextRows& text, const Tokenizer& tokenizer) {
  std::vector<uint64_t> hashes;
  for (size_t document = 0; document + 1 < text.cu_seqlens.size(); ++document) {
    const std::vector<int32_t> ids = ids_of(text, text.cu_seqlens[document], text.cu_seqlens[document + 1]);
    for_each_ngram(tokenizer.decode(ids, /*skip_special_tokens=*/true), [&](uint64_t hash) { hashes.push_back(hash); });
  }
  std::sort(hashes.begin(), hashes.end());
  hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  std::string bytes(hashes.size() * sizeof(uint64_t), '\0');
  if (!hashes.empty()) std::memcpy(bytes.data(), hashes.data(), bytes.size());
  return bytes;
}

Ngrams all_ngrams(const TextRows& text, const Tokenizer* tokenizer, Communicator& world) {
  std::string mine;
  agree(world, "words of the calibration text", [&] {
    if (tokenizer != nullptr) mine = ngrams_of(text, *tokenizer);
  });
  Ngrams all;
  for (const std::string& bytes : world.all_gather_bytes(mine, "n-grams of the calibration text")) {
    for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
      uint64_t hash = 0;
      std::memcpy(&hash, bytes.data() + at, sizeof hash);
      all[hash] = false;
    }
  }
  return all;
}

/// Marks those that the file has, once it is read to its end. Nothing, with a warning, for a file that cannot be read.
std::optional<int64_t> count_shared(const std::string& path, Ngrams& ngrams) try {
  std::set<uint64_t> shared;
  for_each_text(path, [&](std::string_view text) {
    for_each_ngram(text, [&](uint64_t hash) {
      if (ngrams.contains(hash)) shared.insert(hash);
    });
  });
  for (const uint64_t hash : shared) ngrams[hash] = true;
  return static_cast<int64_t>(shared.size());
} catch (const InvalidArgument& error) {
  log_warning(concat("event=calibration_overlap_unknown file=", path, " reason=\"", error.what(), "\""));
  return std::nullopt;
}

}  // namespace

double CalibrationOverlap::share() const {
  return ngrams == 0 ? 0 : static_cast<double>(shared_ngrams) / static_cast<double>(ngrams);
}

CalibrationOverlap calibration_overlap(const TextRows& text, const Tokenizer* tokenizer,
                                       const std::vector<std::string>& files, Communicator& world) {
  Ngrams ngrams = all_ngrams(text, tokenizer, world);
  CalibrationOverlap overlap{.ngrams = static_cast<int64_t>(ngrams.size()), .shared_ngrams = 0, .files = {}};
  const std::string counts = agree_on_result(world, "compare the calibration text with evaluation files", [&] {
    nlohmann::json shared = nlohmann::json::array();
    for (size_t i = 0; i < files.size(); ++i) {
      const std::optional<int64_t> found = ngrams.empty() ? 0 : count_shared(files[i], ngrams);
      shared.push_back(found ? nlohmann::json(*found) : nlohmann::json());
    }
    shared.push_back(std::count_if(ngrams.begin(), ngrams.end(), [](const auto& gram) { return gram.second; }));
    return shared.dump();
  });
  const nlohmann::json shared = nlohmann::json::parse(counts);
  for (size_t i = 0; i < files.size(); ++i) {
    overlap.files.push_back({files[i], std::nullopt});
    if (!shared[i].is_null()) overlap.files.back().shared_ngrams = shared[i].get<int64_t>();
  }
  overlap.shared_ngrams = shared.back();
  return overlap;
}

}  // namespace moe
