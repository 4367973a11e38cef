#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/error.h"
#include "model/kernel_views.h"

namespace moe {
namespace {

/// Positions that are computed together; a table of twice as many stays below what a layer's activations take.
constexpr int64_t kBlock = 512;

/// theta' of the NTK rule, in the fp32 arithmetic of the reference, which takes the length from a tensor.
at::Tensor dynamic_theta(const RopeConfig& rope, int64_t max_positions, int64_t longest) {
  const double d = static_cast<double>(rope.rotary_dims);
  const at::Tensor length = at::scalar_tensor(longest, at::kLong).to(at::kFloat);
  const at::Tensor stretch = length * rope.factor / static_cast<double>(max_positions) - (rope.factor - 1);
  return stretch.pow(d / (d - 2)) * rope.theta;
}

at::Tensor llama3_frequencies(const RopeConfig& rope, const at::Tensor& unscaled) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const double low_wavelength = original / rope.low_freq_factor, high_wavelength = original / rope.high_freq_factor;
  const at::Tensor wavelength = unscaled.reciprocal() * (2 * std::numbers::pi);
  const at::Tensor slow = at::where(wavelength > low_wavelength, unscaled / rope.factor, unscaled);
  const at::Tensor smooth =
      (wavelength.reciprocal() * original - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor between = (1 - smooth) * slow / rope.factor + smooth * slow;
  return at::where((wavelength >= high_wavelength).logical_and(wavelength <= low_wavelength), between, slow);
}

at::Tensor yarn_frequencies(const RopeConfig& rope, const at::Tensor& powers) {
  const auto d = static_cast<double>(rope.rotary_dims), original = static_cast<double>(rope.original_max_positions);
  const auto pair_of = [&](double turns) {
    return d * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast), high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;
  const at::Tensor ramp = ((at::arange(rope.rotary_dims / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  const at::Tensor kept = 1 - ramp;
  return (powers * rope.factor).reciprocal() * (1 - kept) + powers.reciprocal() * kept;
}

/// M(s, c) of yarn.
double yarn_scale(double factor, double coefficient) {
  return factor <= 1 ? 1 : 0.1 * coefficient * std::log(factor) + 1;
}

}  // namespace

at::Tensor rope_frequencies(const RopeConfig& rope, int64_t max_positions, int64_t longest) {
  const at::Tensor exponents = at::arange(0, rope.rotary_dims, 2, at::kFloat) / static_cast<double>(rope.rotary_dims);
  if (rope.type == "dynamic" && longest > max_positions) {
    return at::pow(dynamic_theta(rope, max_positions, longest), exponents).reciprocal();
  }
  const at::Tensor powers = at::pow(rope.theta, exponents);
  if (rope.type == "linear") return powers.reciprocal() / rope.factor;
  if (rope.type == "llama3") return llama3_frequencies(rope, powers.reciprocal());
  if (rope.type == "yarn") return yarn_frequencies(rope, powers);
  return powers.reciprocal();
}

double rope_output_factor(const RopeConfig& rope) {
  if (rope.type != "yarn") return 1;
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    return yarn_scale(rope.factor, rope.mscale) / yarn_scale(rope.factor, rope.mscale_all_dim);
  return yarn_scale(rope.factor, 1);
}

RopeTable::RopeTable(const ModelConfig& config, const at::TensorOptions& options)
    : rope_(config.rope),
      max_positions_(config.max_positions),
      options_(options.dtype(sum_type(c10::typeMetaToScalarType(options.dtype())))),
      frequencies_(rope_frequencies(config.rope, config.max_positions, 0)) {
  grow(1);
}

RopeAngles RopeTable::compute(const at::Tensor& positions, const at::Tensor& frequencies) const {
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  const double factor = rope_output_factor(rope_);
  const auto finished = [&](const at::Tensor& values) { return (factor == 1 ? values : values * factor).to(options_); };
  return {finished(angles.cos()), finished(angles.sin())};
}

void RopeTable::grow(int64_t positions) {
  std::vector<at::Tensor> cos, sin;
  int64_t rows = 0;
  if (table_.cos.defined()) {
    rows = table_.cos.size(0);
    cos.push_back(table_.cos);
    sin.push_back(table_.sin);
  }
  // Doubling: a generation that goes on token by token copies little.
  const int64_t wanted = rows >= positions ? rows : std::max(positions, 2 * rows);
  if (wanted == rows) return;
  for (; rows < wanted; rows += kBlock) {
    const RopeAngles block = compute(at::arange(rows, rows + kBlock, at::kLong), frequencies_);
    cos.push_back(block.cos);
    sin.push_back(block.sin);
  }
  table_ = {at::cat(cos), at::cat(sin)};
}

RopeAngles RopeTable::angles(const std::vector<int64_t>& cu_seqlens, const std::vector<int64_t>& first_positions) {
  const size_t sequences = cu_seqlens.size() - 1;
  MOE_CHECK(first_positions.empty() || first_positions.size() == sequences, first_positions.size(),
            " first positions of ", sequences, " sequences");
  struct Positions {
    int64_t first, length;
    int64_t end() const { return length == 0 ? 0 : first + length; }
  };
  std::vector<Positions> all;
  int64_t longest = 0;
  for (size_t s = 0; s < sequences; ++s) {
    all.push_back({first_positions.empty() ? 0 : first_positions[s], cu_seqlens[s + 1] - cu_seqlens[s]});
    longest = std::max(longest, all.back().end());
  }
  const bool is_stretched = rope_.type == "dynamic" && longest > max_positions_;
  if (!is_stretched) grow(longest);
  std::vector<at::Tensor> cos{table_.cos.narrow(0, 0, 0)}, sin{table_.sin.narrow(0, 0, 0)};  // of no sequences
  for (const Positions& positions : all) {
    if (positions.length == 0) continue;  // one that waits may stand beyond the table
    const RopeAngles angles = is_stretched
                                  ? compute(at::arange(positions.first, positions.first + positions.length, at::kLong),
                                            rope_frequencies(rope_, max_positions_, positions.end()))
                                  : RopeAngles{table_.cos.narrow(0, positions.first, positions.length),
                                               table_.sin.narrow(0, positions.first, positions.length)};
    cos.push_back(angles.cos);
    sin.push_back(angles.sin);
  }
  return {at::cat(cos), at::cat(sin)};
}

}  // namespace moe
