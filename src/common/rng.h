#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace moe {

/// One block of Philox 4x32-10: 128 random bits that depend on the counter and the key alone.
/// Source   Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// Counter-based random numbers: a stream is named by (seed, stream, substream), for example (seed, purpose, layer), so
/// that a draw never depends on rank, thread or order of work. No state is ever saved. Not for use by two threads.
class CounterRng {
 public:
  CounterRng(uint64_t seed, uint32_t stream, uint32_t substream = 0);

  uint32_t next_u32();
  uint64_t next_u64();
  /// Uniform on [0, 1), 53 bits.
  double uniform();
  /// Uniform on {0, .., n-1} without bias; n > 0.
  uint64_t below(uint64_t n);
  /// Standard normal (Box-Muller).
  double normal();

 private:
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
};

/// Streams of CounterRng: one number per purpose, for ever.
enum RngStream : uint32_t {
  kStreamSplit = 1,
  kStreamRouter = 2,
  kStreamDataOrder = 4,
  kStreamSampling = 5,
  kStreamRowOrder = 6,
  kStreamNeuronClusters = 7,
  kStreamUpcycle = 10,
  kStreamRouterNoise = 11,
  kStreamDistillation = 12,
  kStreamTokenClusters = 16,
  kStreamDocumentClusters = 17,
  kStreamReconstruction = 21,
  kStreamHeadGroups = 18,
  kStreamAttentionRouter = 19,
  kStreamRandomRouting = 24,
  kStreamDroppedTokens = 25,
  kStreamFreshWeights = 26,
  kStreamTest = 100,
};

/// A uniformly random permutation of {0, .., n-1} (Fisher-Yates).
std::vector<int64_t> random_permutation(int64_t n, CounterRng rng);

}  // namespace moe
