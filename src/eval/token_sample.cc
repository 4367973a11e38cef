#include "eval/token_sample.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/rng.h"

namespace moe {
namespace {

uint64_t lot_of(int64_t row, int64_t token) {
  const auto number = static_cast<uint64_t>(row);
  const std::array<uint32_t, 4> block = philox4x32(
      {static_cast<uint32_t>(token), static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32), 0}, {0, 0});
  return uint64_t{block[0]} << 32 | block[1];
}

}  // namespace

void TokenSample::offer(int64_t row, size_t domain, int64_t token, const double* values, int64_t count, int64_t label) {
  std::map<Lot, SampledToken>& kept = kept_[domain];
  const Lot lot{lot_of(row, token), row, token};
  if (kept.size() == most_) {
    if (kept.empty() || std::prev(kept.end())->first < lot) return;
    kept.erase(std::prev(kept.end()));
  }
  kept.emplace(lot, SampledToken{.domain = static_cast<int64_t>(domain),
                                 .row = row,
                                 .token = token,
                                 .label = label,
                                 .values = {values, values + count}});
}

std::vector<SampledToken> TokenSample::drawn(int64_t count, Communicator& world) const {
  int64_t mine = 0;
  for (const std::map<Lot, SampledToken>& kept : kept_) mine += static_cast<int64_t>(kept.size());
  at::Tensor facts_N4 = at::empty({mine, 4}, at::kLong), values_NV = at::empty({mine, count}, at::kFloat);
  auto* fact = facts_N4.mutable_data_ptr<int64_t>();
  auto* value = values_NV.mutable_data_ptr<float>();
  for (const std::map<Lot, SampledToken>& kept : kept_) {
    for (const auto& [lot, token] : kept) {
      for (const int64_t of_token : {token.domain, token.row, token.token, token.label}) *fact++ = of_token;
      value = std::copy(token.values.begin(), token.values.end(), value);
    }
  }
  facts_N4 = world.all_gather(facts_N4, "sampled tokens").contiguous();
  values_NV = world.all_gather(values_NV, "values of sampled tokens").contiguous();

  TokenSample all(kept_.size(), most_);
  const auto* const facts = facts_N4.const_data_ptr<int64_t>();
  const at::Tensor exact_NV = values_NV.to(at::kDouble);
  for (int64_t n = 0; n < facts_N4.size(0); ++n) {
    const int64_t* const of_token = facts + 4 * n;
    all.offer(of_token[1], static_cast<size_t>(of_token[0]), of_token[2], exact_NV.const_data_ptr<double>() + n * count,
              count, of_token[3]);
  }
  std::vector<SampledToken> tokens;
  for (std::map<Lot, SampledToken>& kept : all.kept_) {
    for (auto& [lot, token] : kept) tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(), [](const SampledToken& a, const SampledToken& b) {
    return std::tie(a.domain, a.row, a.token) < std::tie(b.domain, b.row, b.token);
  });
  return tokens;
}

}  // namespace moe
