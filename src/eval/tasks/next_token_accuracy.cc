#include <algorithm>

#include "eval/eval_tasks.h"
#include "model/device.h"

/// next_token_accuracy: share of target tokens that the model holds for the most likely ones, over the files, per
/// domain and in all.
namespace moe {
namespace {

/// Rows of logits held at a time.
constexpr int64_t kChunk = 256;

nlohmann::json share_json(const TokenSum& hits) {
  return {{"next_token_accuracy", hits.mean()}};
}

}  // namespace

nlohmann::json next_token_accuracy(const EvalSubject& subject) {
  HeldOutData& data = subject.data();
  const Decoder& decoder = subject.model.decoder;
  const TokenValues hits = [&decoder](const at::Tensor& hidden_TD, const at::Tensor& given_T) {
    const at::Tensor labels_T = on_device(given_T, hidden_TD.device());
    at::Tensor hits_T = at::empty(labels_T.sizes(), labels_T.options().dtype(at::kDouble));
    for (int64_t first = 0; first < labels_T.size(0); first += kChunk) {
      const int64_t count = std::min(kChunk, labels_T.size(0) - first);
      const at::Tensor best_T = decoder.logits(hidden_TD.narrow(0, first, count)).argmax(1);
      hits_T.narrow(0, first, count).copy_(best_T.eq(labels_T.narrow(0, first, count)));
    }
    return hits_T;
  };
  const TokenReport report =
      measure_tokens(decoder, *subject.model.dispatcher, data, subject.mesh, hits, subject.progress, subject.choice);
  nlohmann::json result = share_json(report.total());
  for (const auto& [name, sum] : report.domains) result["domains"][name] = share_json(sum);
  return result;
}

}  // namespace moe
