#include "convert/calibration_text.h"

#include <algorithm>

#include "common/error.h"
#include "common/log.h"
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

}  // namespace

std::vector<int64_t> CalibrationText::row_cu_seqlens(int64_t row) const {
  std::vector<int64_t> cu_seqlens_of_row;
  for (const int64_t begin : cu_seqlens) {
    if (begin >= row_begin[row] && begin <= row_begin[row + 1]) cu_seqlens_of_row.push_back(begin - row_begin[row]);
  }
  return cu_seqlens_of_row;
}

CalibrationText read_calibration_text(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                      const ModelText& reading, const Communicator& world) {
  DataLoader loader(data_files(spec.calibration().data()), reading.tokenizer, packing_of(seed, config, reading));
  std::vector<int64_t> first_token{0};
  int64_t rows = 0;
  while (first_token.back() < spec.calibration().tokens() && loader.has_row(rows))
    first_token.push_back(first_token.back() + loader.tokens(rows++, 1));
  CalibrationText text;
  text.total_tokens = first_token.back();
  text.data_digest = loader.fingerprint();
  text.file_digests = loader.file_digests();
  if (loader.has_chats()) text.chat_template = reading.chat_template.name;
  if (text.total_tokens < spec.calibration().tokens() && world.rank() == 0) {
    log_warning(
        concat("event=calibration_text_is_short tokens=", text.total_tokens,
               " calibration_tokens=", spec.calibration().tokens(),
               "; the files hold no more, and all of it is used, once: scales and routers rest on less than was asked "
               "for. Give more text or lower calibration.tokens"));
  }

  const int64_t first = rows * world.rank() / world.size(), last = rows * (world.rank() + 1) / world.size();
  const PackedBatch batch = loader.batch(first, last - first);
  text.tokens_T = batch.tokens_T;
  text.labels_T = batch.labels_T;
  text.cu_seqlens = batch.cu_seqlens;
  text.first_row = first;
  text.first_token = first_token[first];
  for (int64_t row = first; row <= last; ++row) text.row_begin.push_back(first_token[row] - text.first_token);
  return text;
}

}  // namespace moe
