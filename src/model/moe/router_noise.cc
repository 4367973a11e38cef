#include "model/moe/router_noise.h"

#include <ATen/Parallel.h>

#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

/// Bits of a counter word that say which pair of experts; the others say which router.
constexpr int kPairBits = 16;

/// 53 bits of two words, in (0, 1): a logarithm of it is finite, and that of it less 1 too.
double open_uniform(uint32_t high, uint32_t low) {
  return (static_cast<double>((uint64_t{high} << 32 | low) >> 12) + 0.5) * 0x1.0p-52;
}

/// `make`: two draws of the two uniform numbers of a block of the generator.
template <typename Make>
at::Tensor drawn(const NoiseSource& source, uint32_t stream, int64_t router, int64_t tokens, int64_t experts,
                 const Make& make) {
  const int64_t pairs = (experts + 1) / 2;
  MOE_CHECK(pairs <= int64_t{1} << kPairBits && router < int64_t{1} << (31 - kPairBits) && source.step >> 32 == 0 &&
                (source.first_token + tokens) >> 32 == 0,
            "noise of ", experts, " experts of router ", router, ", token ", source.first_token + tokens, " of step ",
            source.step);
  at::Tensor draws_TE = at::empty({tokens, experts}, at::kDouble);
  auto* const draws = draws_TE.mutable_data_ptr<double>();
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(source.seed), static_cast<uint32_t>(source.seed >> 32)};
  at::parallel_for(0, tokens, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const std::array<uint32_t, 4> bits =
            philox4x32({static_cast<uint32_t>(source.first_token + t), static_cast<uint32_t>(source.step), stream,
                        static_cast<uint32_t>(router << kPairBits | pair)},
                       key);
        const auto [even, odd] = make(open_uniform(bits[0], bits[1]), open_uniform(bits[2], bits[3]));
        draws[t * experts + 2 * pair] = even;
        if (2 * pair + 1 < experts) draws[t * experts + 2 * pair + 1] = odd;
      }
    }
  });
  return draws_TE;
}

}  // namespace

at::Tensor noise_draws(const NoiseSource& source, RouterNoise noise, int64_t router, int64_t tokens, int64_t experts) {
  using Two = std::pair<double, double>;
  switch (noise) {
    case RouterNoise::kNone: break;
    case RouterNoise::kGumbel:
      return drawn(source, kStreamRouterNoise, router, tokens, experts, [](double a, double b) {
        return Two{-std::log(-std::log(a)), -std::log(-std::log(b))};
      });
    case RouterNoise::kLearned:
      return drawn(source, kStreamRouterNoise, router, tokens, experts, [](double a, double b) {
        const double radius = std::sqrt(-2 * std::log(a)), angle = 2 * std::numbers::pi * b;  // Box-Muller
        return Two{radius * std::cos(angle), radius * std::sin(angle)};
      });
  }
  return {};
}

at::Tensor uniform_draws(const NoiseSource& source, uint32_t stream, int64_t router, int64_t tokens, int64_t columns) {
  return drawn(source, stream, router, tokens, columns, [](double a, double b) { return std::pair{a, b}; });
}

}  // namespace moe
