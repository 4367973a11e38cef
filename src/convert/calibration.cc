#include "convert/calibration.h"

#include <algorithm>

#include "common/error.h"
#include "common/log.h"
#include "data/data_loader.h"

namespace moe {
namespace {

constexpr int64_t kLongestRow = 512;

}  // namespace

CalibrationStream::CalibrationStream(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                     const CalibrationText& text, Communicator& world)
    : config_(config) {
  PackingOptions packing;
  packing.sequence_length = std::min(kLongestRow, config.max_positions);
  packing.seed = seed;
  packing.vocab_size = config.vocab_size;
  packing.one_pass = true;
  packing.chat_template = text.chat_template;
  packing.chat.supervise = "whole";
  packing.long_chats = "split";
  DataLoader loader(data_files(spec.calibration()), text.tokenizer, packing);
  int64_t rows = 0, tokens = 0;
  std::vector<int64_t> first_token;
  while (tokens < spec.calibration_tokens() && loader.has_row(rows)) {
    first_token.push_back(tokens);
    tokens += loader.tokens(rows++, 1);
  }
  data_digest_ = loader.fingerprint();
  file_digests_ = loader.file_digests();
  if (loader.has_chats()) chat_template_ = text.chat_template.name;
  if (tokens < spec.calibration_tokens() && world.rank() == 0) {
    log_warning(
        concat("event=calibration_text_is_short tokens=", tokens, " calibration_tokens=", spec.calibration_tokens(),
               "; the files hold no more, and all of it is used, once: scales and routers rest on less than was asked "
               "for. Give more text or lower calibration_tokens"));
  }

  const int64_t first = rows * world.rank() / world.size(), count = rows * (world.rank() + 1) / world.size() - first;
  const PackedBatch batch = loader.batch(first, count);
  tokens_ = batch.tokens_T;
  cu_seqlens_ = batch.cu_seqlens;
  rope_ = RopeTable(config, at::kFloat).angles(batch.positions_T, cu_seqlens_);
  features_.first = first < rows ? first_token[first] : tokens;
  features_.total = tokens;
}

void CalibrationStream::embed(const at::Tensor& embedding_VD) {
  dense_ = embedding_VD.index_select(0, tokens_).to(at::kFloat);
  converted_ = dense_;
}

void CalibrationStream::attend(const Layer& layer) {
  const LayerContext context{config_, rope_, cu_seqlens_, dispatcher_};
  LayerContext observed = context;
  AttendedLayer dense;
  observed.options.observer = [&dense](int64_t /*layer*/, LayerPoint point, const at::Tensor& values) {
    if (point == LayerPoint::kAttended) dense.x_TD = values;
    if (point == LayerPoint::kFfnInput) dense.ffn_input_TD = values;
  };
  const bool is_same = dense_.is_same(converted_);
  dense_ = run_layer(layer, dense_, observed).x_TD;
  const AttendedLayer converted = is_same ? dense : attend_layer(layer, converted_, context);
  converted_ = converted.x_TD;
  features_.local_TD = dense.ffn_input_TD;
  converted_input_ = converted.ffn_input_TD;
}

void CalibrationStream::advance(const at::Tensor& converted_output_TD) {
  converted_ = converted_ + converted_output_TD;
}

}  // namespace moe
