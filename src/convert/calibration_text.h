#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"
#include "runtime/opened_model.h"

namespace moe {

/// The calibration text of one rank: a range of rows of packed documents.
struct CalibrationText {
  at::Tensor tokens_T, labels_T;                    ///< int64; labels shifted, -100 = no target
  std::vector<int64_t> cu_seqlens;                  ///< of documents
  int64_t first_row = 0;                            ///< of all rows of the world
  std::vector<int64_t> row_begin;                   ///< [rows + 1]: tokens of this rank
  int64_t first_token = 0, total_tokens = 0;        ///< of the world
  std::string data_digest;                          ///< of the files, the tokenizer and how they were packed
  std::map<std::string, std::string> file_digests;  ///< XXH3-128 of each file's bytes, by path
  std::string chat_template;                        ///< of the chats; empty if no file has any

  int64_t rows() const { return static_cast<int64_t>(row_begin.size()) - 1; }
  /// Documents of row r, as tokens of the row.
  std::vector<int64_t> row_cu_seqlens(int64_t row) const;
};

/// Tokenises and packs as much text as `calibration.tokens` asks for, or warns with the numbers if the files hold
/// less: no document is taken twice, since what is read twice only weighs twice. Chats count whole, in pieces where
/// they are longer than a row. Same rows at any number of ranks.
CalibrationText read_calibration_text(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                      const ModelText& reading, const Communicator& world);

}  // namespace moe
