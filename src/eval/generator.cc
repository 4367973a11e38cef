#include "eval/generator.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

int64_t choose(const at::Tensor& logits_V, double temperature, CounterRng& rng) {
  const at::Tensor logits = logits_V.to(at::kDouble).contiguous();
  const double* values = logits.const_data_ptr<double>();
  const int64_t vocabulary = logits.numel();
  const double largest = *std::max_element(values, values + vocabulary);
  if (temperature <= 0) return std::find(values, values + vocabulary, largest) - values;
  double total = 0;
  for (int64_t v = 0; v < vocabulary; ++v) total += std::exp((values[v] - largest) / temperature);
  double rest = rng.uniform() * total;
  for (int64_t v = 0; v < vocabulary; ++v) {
    rest -= std::exp((values[v] - largest) / temperature);
    if (rest < 0) return v;
  }
  return vocabulary - 1;  // what rounding left over
}

}  // namespace

std::vector<int32_t> generate(const LoadedModel& model, const std::vector<int32_t>& prompt,
                              const GenerationOptions& options, const std::function<void(int32_t)>& on_token) {
  MOE_CHECK(!prompt.empty(), "nothing to continue");
  const at::NoGradGuard no_grad;
  KvCache cache;
  CounterRng rng(options.seed, kStreamSampling);
  std::vector<int32_t> made;
  std::vector<int64_t> pending(prompt.begin(), prompt.end());
  int64_t position = 0;
  while (static_cast<int64_t>(made.size()) < options.max_tokens) {
    const auto count = static_cast<int64_t>(pending.size());
    if (position + count > model.config().max_positions) break;
    const TokenBatch batch{at::tensor(pending, at::kLong), {0, count}};
    const at::Tensor hidden = model.decoder.forward(batch, *model.dispatcher, {.cache = &cache}).hidden_TD;
    position += count;
    const at::Tensor logits_V = model.decoder.logits(hidden.slice(0, count - 1, count)).select(0, 0);
    const auto next = static_cast<int32_t>(choose(logits_V, options.temperature, rng));
    if (options.stops.contains(next)) break;
    made.push_back(next);
    if (on_token) on_token(next);
    pending = {next};
  }
  return made;
}

}  // namespace moe
