#include "convert/calibration_text.h"

#include <algorithm>

#include "common/error.h"
#include "data/data_loader.h"

namespace moe {
namespace {

constexpr int64_t kLongestRow = 512;

PackingOptions packing_of(uint64_t seed, const ModelConfig& config, const ModelText& reading) {
  PackingOptions packing;
  packing.sequence_length = std::min(kLongestRow, config.max_positions);
  packing.seed = seed;
  packing.vocab_size = config.vocab_size;
  packing.one_pass = true;
  packing.chat_template = reading.chat_template;
  packing.chat.supervise = "whole";
  packing.long_chats = "split";
  return packing;
}

/// This rank's part of rows [first_row, first_row + begin.size() - 1), whose tokens begin at `begin`.
TextRows rows_of_rank(DataLoader& loader, int64_t first_row, const std::vector<int64_t>& begin,
                      const Communicator& world) {
  const auto rows = static_cast<int64_t>(begin.size()) - 1;
  const int64_t first = rows * world.rank() / world.size(), last = rows * (world.rank() + 1) / world.size();
  const PackedBatch batch = loader.batch(first_row + first, last - first);
  TextRows mine{.tokens_T = batch.tokens_T,
                .labels_T = batch.labels_T,
                .cu_seqlens = batch.cu_seqlens,
                .first_row = first,
                .row_begin = {},
                .first_token = begin[first],
                .total_tokens = begin.back()};
  for (int64_t row = first; row <= last; ++row) mine.row_begin.push_back(begin[row] - mine.first_token);
  return mine;
}

/// Where the tokens of rows from `first` on begin, until there are `tokens` of them or, if `rows` is given, that many
/// rows; the end is the last.
std::vector<int64_t> row_begins(DataLoader& loader, int64_t first, int64_t tokens, int64_t rows = -1) {
  std::vector<int64_t> begin{0};
  for (int64_t row = first; begin.back() < tokens && (rows < 0 ? loader.has_row(row) : row < first + rows); ++row)
    begin.push_back(begin.back() + loader.tokens(row, 1));
  return begin;
}

}  // namespace

std::vector<int64_t> TextRows::row_cu_seqlens(int64_t row) const {
  std::vector<int64_t> cu_seqlens_of_row;
  for (const int64_t begin : cu_seqlens) {
    if (begin >= row_begin[row] && begin <= row_begin[row + 1]) cu_seqlens_of_row.push_back(begin - row_begin[row]);
  }
  return cu_seqlens_of_row;
}

CalibrationText read_calibration_text(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                      const ModelText& reading, const Communicator& world) {
  DataLoader loader(data_files(spec.calibration().data()), reading.tokenizer, packing_of(seed, config, reading));
  const int64_t asked = spec.calibration().tokens();
  const std::vector<int64_t> fitted = row_begins(loader, 0, asked);
  if (fitted.back() < asked) {
    throw InvalidArgument(concat("convert: calibration.tokens is ", asked, " and the files of calibration.data hold ",
                                 fitted.back(),
                                 " tokens; no document is used twice: give more text, or set calibration.tokens to ",
                                 fitted.back(), " or less"));
  }
  const auto rows = static_cast<int64_t>(fitted.size()) - 1;
  CalibrationText text;
  static_cast<TextRows&>(text) = rows_of_rank(loader, 0, fitted, world);
  text.data_digest = loader.fingerprint();
  text.file_digests = loader.file_digests();
  if (loader.has_chats()) text.chat_template = reading.chat_template.name;
  const std::vector<int64_t> following = row_begins(loader, rows, kReceiptTokens);
  text.receipt_is_held_out = following.back() >= kLeastHeldOutTokens;
  text.receipt = text.receipt_is_held_out ? rows_of_rank(loader, rows, following, world)
                                          : rows_of_rank(loader, 0, row_begins(loader, 0, kReceiptTokens, rows), world);
  return text;
}

}  // namespace moe
