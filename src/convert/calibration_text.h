#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/calibration_store.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"
#include "runtime/opened_model.h"

namespace moe {

/// Rows of packed documents, of which this rank has a range.
struct TextRows {
  at::Tensor tokens_T, labels_T;              ///< int64; labels shifted, -100 = no target
  std::vector<int64_t> cu_seqlens;            ///< of documents
  int64_t first_row = 0;                      ///< of all rows of the world
  std::vector<int64_t> row_begin;             ///< [rows + 1]: tokens of this rank
  int64_t first_token = 0, total_tokens = 0;  ///< of the world

  int64_t rows() const { return static_cast<int64_t>(row_begin.size()) - 1; }
  /// Documents of row r, as tokens of the row.
  std::vector<int64_t> row_cu_seqlens(int64_t row) const;
};

/// What is read once of the calibration files: the rows that methods, routers and scales are fitted to, and those on
/// which the result is measured (convert/step0_receipt.h).
struct CalibrationText : TextRows {
  /// Of all that decides the rows: what the files hold, their weights, tokenizer, template, tokens, seed. The name of
  /// the calibration in a CalibrationStore.
  std::string digest;
  std::map<std::string, std::string> file_digests;  ///< XXH3-128 of each file's bytes, by path
  std::string chat_template;                        ///< of the chats; empty if no file has any
  /// About kReceiptTokens: the rows that follow those that are fitted to, or, where the files hold hardly any more, the
  /// first of those.
  TextRows receipt;
  bool receipt_is_held_out = false;  ///< nothing was fitted to the receipt's rows
};

inline constexpr int64_t kReceiptTokens = 2048;
/// Fewer tokens than this that were not fitted to are no measure.
inline constexpr int64_t kLeastHeldOutTokens = 256;

/// Tokenises and packs as much text as `calibration.tokens` asks for, and what the receipt takes; or takes these rows
/// from the store, where an earlier conversion left them. Chats count whole, in pieces where they are longer than a
/// row. Same rows at any number of ranks. Collective. Throws InvalidArgument with the numbers if the files hold less:
/// no document is taken twice, since what is read twice only weighs twice; StorageError if ranks see different files.
CalibrationText read_calibration_text(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                      const ModelText& reading, Communicator& world,
                                      const CalibrationStore& store = CalibrationStore({}));

}  // namespace moe
