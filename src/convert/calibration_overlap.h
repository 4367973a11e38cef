#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/calibration_text.h"
#include "data/tokenizer/tokenizer.h"

namespace moe {

/// How much of the text that a conversion was fitted to stands in files that models are measured on afterwards: what
/// was fitted to the answers says little. Of distinct word 13-grams (data/word_ngrams.h).
struct CalibrationOverlap {
  int64_t ngrams = 0;         ///< of the calibration text
  int64_t shared_ngrams = 0;  ///< of those, in any of the files
  struct File {
    std::string path;
    std::optional<int64_t> shared_ngrams;  ///< nothing: the file could not be read as documents
  };
  std::vector<File> files;  ///< as they were given

  /// 0 where the text has no 13-gram.
  double share() const;
};

/// Of the rows that are fitted to, decoded: what was really used of the calibration files. Rank 0 reads `files`, line
/// by line, each whole, and warns of one that cannot be read: it is none of this job's inputs. Ids in them, or a model
/// without a tokenizer, give nothing to compare. The same on every rank. Collective.
CalibrationOverlap calibration_overlap(const TextRows& text, const Tokenizer* tokenizer,
                                       const std::vector<std::string>& files, Communicator& world);

}  // namespace moe
