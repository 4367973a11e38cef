#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <vector>

#include "runtime/loaded_model.h"

namespace moe {

struct GenerationOptions {
  int64_t max_tokens = 128;   ///< to add at most
  double temperature = 0;     ///< 0: the most likely token each time (lowest id on ties); else softmax(logits / T)
  uint64_t seed = 0;          ///< of the draws when the temperature is above 0
  std::set<int32_t> stops{};  ///< after which nothing more is said; they are not part of the continuation
};

/// Continues `prompt` (at least one id, fewer than the model has positions) token by token with cached keys and values,
/// in one process; `on_token` hears each as it is made. Ends at a stop, after max_tokens, or where the positions end.
/// Returns the continuation: a function of model, prompt and options alone.
std::vector<int32_t> generate(const LoadedModel& model, const std::vector<int32_t>& prompt,
                              const GenerationOptions& options, const std::function<void(int32_t id)>& on_token = {});

}  // namespace moe
