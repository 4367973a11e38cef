#include "eval/scorer.h"

#include "common/error.h"

namespace moe {
namespace {

/// Hidden states after the final norm of one sequence. [T, D]
at::Tensor sequence_hidden(const LoadedModel& model, const at::Tensor& ids_T) {
  const int64_t length = ids_T.size(0);
  const TokenBatch batch{ids_T, {0, length}};
  return model.decoder.forward(batch, *model.dispatcher).hidden_TD;
}

}  // namespace

std::vector<float> log_probabilities(const LoadedModel& model, const std::vector<int32_t>& ids) {
  const at::NoGradGuard no_grad;
  const auto length = static_cast<int64_t>(ids.size());
  if (length < 2) return {};
  const at::Tensor all = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong);
  const at::Tensor hidden = sequence_hidden(model, all.slice(0, 0, length - 1));
  const at::Tensor log_p =
      model.decoder.token_losses(hidden, all.slice(0, 1, length)).neg().to(at::kFloat).contiguous();
  const float* values = log_p.const_data_ptr<float>();
  return {values, values + log_p.numel()};
}

at::Tensor sequence_logits(const LoadedModel& model, const at::Tensor& ids_T) {
  const at::NoGradGuard no_grad;
  return model.decoder.logits(sequence_hidden(model, ids_T));
}

void check_scored_length(const ModelConfig& config, size_t ids, const std::string& where) {
  if (static_cast<int64_t>(ids) - 1 > config.max_positions) {
    throw InvalidArgument(concat(where, ": ", ids, " tokens are more than the model's max_position_embeddings ",
                                 config.max_positions, " and one; split the document"));
  }
}

}  // namespace moe
