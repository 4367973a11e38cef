#include "parallel/token_capacity.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/rng.h"

namespace moe {

void TokenCapacity::begin(const NoiseSource& source, int64_t tokens, int64_t before) {
  source_ = source;
  tokens_ = tokens;
  before_ = before;
}

at::Tensor TokenCapacity::kept(const at::Tensor& ids_T, int64_t num_experts, int64_t layer) {
  const at::Tensor all_T = world_.all_gather(ids_T.cpu().contiguous(), concat("chosen experts of layer ", layer));
  MOE_CHECK(all_T.size(0) == tokens_, "a micro-batch of ", tokens_, " tokens, of which ranks have ", all_T.size(0));
  const auto* const ids = all_T.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> tokens_of(num_experts);
  for (int64_t t = 0; t < tokens_; ++t) tokens_of[ids[t]].push_back(t);

  const auto capacity =
      static_cast<int64_t>(std::floor(factor_ * static_cast<double>(tokens_) / static_cast<double>(num_experts)));
  at::Tensor kept_T = at::ones({ids_T.size(0)}, at::kBool);
  auto* const kept = kept_T.mutable_data_ptr<bool>();
  at::Tensor draws_T;
  for (std::vector<int64_t>& tokens : tokens_of) {
    if (static_cast<int64_t>(tokens.size()) <= capacity) continue;
    if (!draws_T.defined()) draws_T = uniform_draws(source_, kStreamDroppedTokens, layer, tokens_, 1);
    const auto* const draws = draws_T.const_data_ptr<double>();
    std::sort(tokens.begin(), tokens.end(),
              [draws](int64_t a, int64_t b) { return std::pair(-draws[a], a) < std::pair(-draws[b], b); });
    for (auto token = tokens.begin() + capacity; token != tokens.end(); ++token) {
      ++dropped_;
      const int64_t mine = *token - before_;
      if (mine >= 0 && mine < ids_T.size(0)) kept[mine] = false;
    }
  }
  return kept_T;
}

}  // namespace moe
