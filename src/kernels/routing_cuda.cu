// The choice of experts and the order of rows by expert, and by rank, on CUDA. Indices are small beside the rows that
// they move: each sort is one launch, in which a block per expert (or rank) reads all ids twice, out of the cache.
#include <cstdint>

#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_reduce.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kThreads = 256;
constexpr int kTokensOfBlock = kThreads / kWarp;

/// A logit and its expert; before() is the order in which experts are chosen. A NaN stands behind everything, so that
/// the ids are those of experts whatever the logits.
template <typename S>
struct Candidate {
  S logit;
  int64_t expert;

  __device__ bool before(const Candidate& other) const {
    return logit > other.logit || (logit == other.logit && expert < other.expert);
  }
};

template <typename T>
__device__ Candidate<SumOf<T>> candidate(const T* logits, int64_t expert) {
  const SumOf<T> logit = widen(logits[expert]);
  return {isnan(logit) ? -kInfinity<SumOf<T>> : logit, expert};
}

/// One warp per token: in each of k rounds the first of those that stand behind the last choice.
template <typename T>
__global__ void top_k_kernel(Rows<const T> logits, int64_t tokens, int64_t experts, int64_t k, int64_t* ids) {
  using S = SumOf<T>;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokensOfBlock + threadIdx.x / kWarp;
  if (token >= tokens) return;
  const T* const row = logits[token];
  Candidate<S> last{kInfinity<S>, -1};
  for (int64_t choice = 0; choice < k; ++choice) {
    Candidate<S> best{-kInfinity<S>, experts};
    for (int64_t expert = threadIdx.x % kWarp; expert < experts; expert += kWarp) {
      const Candidate<S> next = candidate(row, expert);
      if (last.before(next) && next.before(best)) best = next;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Candidate<S> other{__shfl_xor_sync(kAllLanes, best.logit, offset),
                               __shfl_xor_sync(kAllLanes, best.expert, offset)};
      if (other.before(best)) best = other;
    }
    if (threadIdx.x % kWarp == 0) ids[token * k + choice] = best.expert;
    last = best;
  }
}

/// Block e places the rows of expert e behind those of the experts before it, in the order of slots.
__global__ void sort_slots_kernel(SlotSort sort) {
  const int64_t own = blockIdx.x, slots = sort.tokens * sort.slots;
  const auto local = [&sort](int64_t slot) { return sort.expert_ids[slot] - sort.first_expert; };
  int64_t before = 0, count = 0;
  for (int64_t slot = threadIdx.x; slot < slots; slot += kThreads) {
    before += local(slot) >= 0 && local(slot) < own;
    count += local(slot) == own;
    const bool is_elsewhere = local(slot) < 0 || local(slot) >= sort.experts;
    if (own == 0 && is_elsewhere) sort.slot_rows[slot] = -1;
  }
  int64_t row = block_sum<kThreads>(before);
  count = block_sum<kThreads>(count);
  if (threadIdx.x == 0) sort.rows_per_expert[own] = count;
  for (int64_t first = 0; first < slots; first += kThreads) {
    const int64_t slot = first + threadIdx.x;
    const bool is_own = slot < slots && local(slot) == own;
    const Place place = block_place<kThreads>(is_own);
    if (is_own) {
      sort.slot_rows[slot] = row + place.before;
      // The caller has room for as many rows as it said: a wrong count spoils nothing else.
      if (row + place.before < sort.rows) sort.row_tokens[row + place.before] = slot / sort.slots;
    }
    row += place.all;
  }
}

/// Of a token's slots: how many ranks before `rank` have any, and how many slots are there.
struct TokenSends {
  int64_t ranks_before, slots_here;
};
__device__ TokenSends sends_of(const SendSort& sort, int64_t token, int64_t rank) {
  const int64_t* const ids = sort.expert_ids + token * sort.slots;
  TokenSends sends{0, 0};
  for (int64_t k = 0; k < sort.slots; ++k) {
    const int64_t to = ids[k] / sort.experts_per_rank;
    bool is_first = true;
    for (int64_t earlier = 0; earlier < k; ++earlier) is_first &= ids[earlier] / sort.experts_per_rank != to;
    sends.ranks_before += is_first && to < rank;
    sends.slots_here += to == rank;
  }
  return sends;
}

/// Block r places the rows for rank r behind those for the ranks before it, in the order of tokens.
__global__ void sort_sends_kernel(SendSort sort) {
  const int64_t rank = blockIdx.x;
  int64_t before = 0, rows = 0, slots = 0;
  for (int64_t token = threadIdx.x; token < sort.tokens; token += kThreads) {
    const TokenSends sends = sends_of(sort, token, rank);
    before += sends.ranks_before;
    rows += sends.slots_here > 0;
    slots += sends.slots_here;
  }
  int64_t next = block_sum<kThreads>(before);
  rows = block_sum<kThreads>(rows);
  slots = block_sum<kThreads>(slots);
  if (threadIdx.x == 0) {
    sort.counts[2 * rank] = rows;
    sort.counts[2 * rank + 1] = slots;
  }
  for (int64_t first = 0; first < sort.tokens; first += kThreads) {
    const int64_t token = first + threadIdx.x;
    const bool is_sent = token < sort.tokens && sends_of(sort, token, rank).slots_here > 0;
    const Place place = block_place<kThreads>(is_sent);
    const int64_t row = next + place.before;
    if (token < sort.tokens) sort.slot_rows[token * sort.ranks + rank] = is_sent ? row : -1;
    if (is_sent) {
      sort.row_tokens[row] = token;
      for (int64_t k = 0; k < sort.slots; ++k) {
        const int64_t id = sort.expert_ids[token * sort.slots + k];
        sort.local_ids[row * sort.slots + k] = id / sort.experts_per_rank == rank ? id % sort.experts_per_rank : -1;
      }
    }
    next += place.all;
  }
}

}  // namespace

void top_k_cuda(const TopKArgs& args, cudaStream_t stream) {
  if (args.logits.rows == 0 || args.k == 0) return;
  with_type(args.logits.dtype, [&]<typename T>(T) {
    const unsigned blocks = grid(ceil_div(args.logits.rows, kTokensOfBlock), "top_k");
    top_k_kernel<T><<<blocks, kThreads, 0, stream>>>(rows_of<T>(args.logits), args.logits.rows, args.logits.cols,
                                                     args.k, args.ids);
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void sort_slots_cuda(const SlotSort& sort, cudaStream_t stream) {
  sort_slots_kernel<<<grid(sort.experts, "sort_slots"), kThreads, 0, stream>>>(sort);
  MOE_CUDA_CHECK(cudaGetLastError());
}

void sort_sends_cuda(const SendSort& sort, cudaStream_t stream) {
  sort_sends_kernel<<<grid(sort.ranks, "sort_sends"), kThreads, 0, stream>>>(sort);
  MOE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace moe::kernels
