// Attention on our own products against attention written out in float64, at lengths around its blocks.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "model/ops.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/test_device.h"

namespace moe {
namespace {

using testing::max_abs;
using testing::max_difference;
using testing::random_normal;

struct Inputs {
  at::Tensor q, k, v, dout;

  Inputs(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t d)
      : q(random_normal({tokens, heads, d}, 1)),
        k(random_normal({tokens, kv_heads, d}, 2)),
        v(random_normal({tokens, kv_heads, d}, 3)),
        dout(random_normal({tokens, heads, d}, 4)) {}
};

struct Results {
  at::Tensor out, dq, dk, dv;
};

Results attend(const Inputs& in, const std::vector<int64_t>& cu_seqlens, at::ScalarType type, int64_t window = 0) {
  const at::Device device = testing::test_device();
  const auto leaf = [&](const at::Tensor& x) { return x.to(device, type, false, /*copy=*/true).requires_grad_(true); };
  const at::Tensor q = leaf(in.q), k = leaf(in.k), v = leaf(in.v);
  const at::Tensor out = ops::causal_attention(q, k, v, cu_seqlens, window);
  out.backward(in.dout.to(device, type));
  return {out.detach().cpu(), q.grad().cpu(), k.grad().cpu(), v.grad().cpu()};
}

/// With every score in memory.
Results written_out(const Inputs& in, const std::vector<int64_t>& cu_seqlens, int64_t window = 0) {
  const auto leaf = [](const at::Tensor& x) { return x.clone().requires_grad_(true); };
  const at::Tensor q = leaf(in.q), k = leaf(in.k), v = leaf(in.v);
  const int64_t group = q.size(1) / k.size(1);
  std::vector<at::Tensor> parts;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int64_t first = cu_seqlens[s], length = cu_seqlens[s + 1] - first;
    const auto heads = [&](const at::Tensor& x, int64_t repeats) {
      return x.narrow(0, first, length).repeat_interleave(repeats, 1).transpose(0, 1);
    };
    at::Tensor hidden = at::ones({length, length}, at::kBool).triu(1);
    if (window > 0) hidden = hidden.logical_or(at::ones({length, length}, at::kBool).tril(-window));
    const at::Tensor scores =
        at::matmul(heads(q, 1), heads(k, group).transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
    parts.push_back(at::matmul(at::softmax(scores.masked_fill(hidden, -INFINITY), 2), heads(v, group)).transpose(0, 1));
  }
  const at::Tensor out = at::cat(parts);
  out.backward(in.dout);
  return {out.detach(), q.grad(), k.grad(), v.grad()};
}

void expect_close(const Results& got, const Results& expected, double relative, const std::string& what) {
  for (const auto& [name, a, b] : {std::tuple("out", got.out, expected.out), std::tuple("dq", got.dq, expected.dq),
                                   std::tuple("dk", got.dk, expected.dk), std::tuple("dv", got.dv, expected.dv)}) {
    // Where a query sees one key, the gradients of q and k are 0.
    EXPECT_LE(max_difference(a.to(at::kDouble), b), relative * std::max(max_abs(b), 1.0)) << name << ", " << what;
  }
}

const std::vector<int64_t> kLengths{0,   1,   32,  65,  192,
                                    192, 319, 448, 577, 877};  // of 1, 31, 33, 127, 0, 127, 129, 129, 300

TEST(CausalAttentionTest, EqualsAttentionWrittenOutAtAllLengths) {
  for (const auto& [heads, kv_heads, d] : {std::tuple<int64_t, int64_t, int64_t>{2, 2, 32}, {6, 2, 10}, {3, 1, 64}}) {
    const Inputs in(kLengths.back(), heads, kv_heads, d);
    const Results expected = written_out(in, kLengths);
    const std::string what = std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads of " + std::to_string(d);
    expect_close(attend(in, kLengths, at::kDouble), expected, 1e-12, "double, " + what);
    expect_close(attend(in, kLengths, at::kFloat), expected, 3e-6, "float, " + what);
  }
}

// Windows around the blocks of queries (32 to 128) and the steps of lengths (32); one that holds all is none.
TEST(CausalAttentionTest, WindowsEqualAttentionWrittenOut) {
  const Inputs in(kLengths.back(), 6, 2, 10);
  for (const int64_t window : {1, 2, 31, 32, 33, 64, 100, 128, 129, 299}) {
    const Results expected = written_out(in, kLengths, window);
    const std::string what = "window " + std::to_string(window);
    expect_close(attend(in, kLengths, at::kDouble, window), expected, 1e-12, "double, " + what);
    expect_close(attend(in, kLengths, at::kFloat, window), expected, 3e-6, "float, " + what);
  }
  const Results all = attend(in, kLengths, at::kFloat), wide = attend(in, kLengths, at::kFloat, 300);
  EXPECT_TRUE(at::equal(wide.out, all.out) && at::equal(wide.dq, all.dq) && at::equal(wide.dk, all.dk) &&
              at::equal(wide.dv, all.dv));
}

TEST(CausalAttentionTest, LargeScoresDoNotOverflow) {
  Inputs in(70, 2, 1, 16);
  in.q *= 300;
  expect_close(attend(in, {0, 70}, at::kFloat), written_out(in, {0, 70}), 1e-3, "scores of thousands");
}

// What layouts rest on: which sequences share a batch, and how many threads there are, changes no bit.
TEST(CausalAttentionTest, ASequencesBitsDependOnItAlone) {
  const Inputs in(kLengths.back(), 4, 2, 32);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  int64_t compared = 0, differing = 0;
  for (const auto& [count, window] : {std::pair<int, int64_t>{1, 0}, {2, 0}, {2, 40}}) {
    at::set_num_threads(1);
    const Results packed = attend(in, kLengths, at::kFloat, window);
    at::set_num_threads(count);
    for (size_t s = 0; s + 1 < kLengths.size(); ++s) {
      const int64_t first = kLengths[s], length = kLengths[s + 1] - first;
      Inputs alone = in;
      for (at::Tensor* x : {&alone.q, &alone.k, &alone.v, &alone.dout}) *x = x->narrow(0, first, length);
      const Results got = attend(alone, {0, length}, at::kFloat, window);
      for (const auto& [a, b] :
           {std::pair(got.out, packed.out), {got.dq, packed.dq}, {got.dk, packed.dk}, {got.dv, packed.dv}}) {
        ++compared;
        differing += !at::equal(a, b.narrow(0, first, length));
      }
    }
  }
  at::set_num_threads(threads);
  std::cout << differing << " of " << compared << " results differ\n";
  EXPECT_EQ(differing, 0);
}

}  // namespace
}  // namespace moe
