// Causal attention of packed sequences and its gradients, on every device and dtype, written out in double.
#include "kernels/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/error.h"
#include "kernels/test_matrix.h"

namespace moe::kernels::testing {
namespace {

using ::testing::Combine;
using ::testing::HasSubstr;
using ::testing::TestParamInfo;
using ::testing::ThrowsMessage;
using ::testing::Values;

struct Heads {
  int64_t heads, kv_heads, d, window;
};
void PrintTo(const Heads& heads, std::ostream* out) {
  *out << heads.heads << " heads on " << heads.kv_heads << " of " << heads.d << ", window " << heads.window;
}
using Case = std::tuple<DeviceType, DType, Heads>;

std::string case_name(const TestParamInfo<Case>& info) {
  const auto& [device, dtype, heads] = info.param;
  return name_of(device) + name_of(dtype) + "H" + std::to_string(heads.heads) + "On" + std::to_string(heads.kv_heads) +
         "D" + std::to_string(heads.d) + "W" + std::to_string(heads.window);
}

/// Sequences of 1, 31, 0, 33 and 130 tokens: around the steps of 32 in which lengths are rounded, and one of several
/// blocks of queries.
const std::vector<int64_t> kSequences{0, 1, 32, 32, 65, 195};

struct Written {
  std::vector<Expected> out, dq, dk, dv;
  std::vector<double> log_sums;  // [heads, T]
};

/// `out` holds the forward's results as they were rounded; empty for the forward alone.
Written written_out(const Heads& shape, const std::vector<double>& q, const std::vector<double>& k,
                    const std::vector<double>& v, const std::vector<double>& dout, const std::vector<double>& out) {
  const auto [heads, kv_heads, d, window] = shape;
  const int64_t T = kSequences.back(), group = heads / kv_heads;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  // Errors of scores, which are sums of d terms, go into the exponential.
  const double spread = 1 + 4 * std::sqrt(static_cast<double>(d));
  Written w;
  w.out.resize(q.size());
  w.dq.resize(q.size());
  w.dk.resize(k.size());
  w.dv.resize(k.size());
  w.log_sums.resize(static_cast<size_t>(heads * T));
  const auto dot = [d = d](const double* a, const double* b) {
    double sum = 0;
    for (int64_t i = 0; i < d; ++i) sum += a[i] * b[i];
    return sum;
  };
  const auto add_product = [spread](Expected& sum, double factor, double magnitude, double value) {
    sum.value += factor * value;
    sum.magnitude += spread * magnitude * std::abs(value);
  };
  for (size_t s = 0; s + 1 < kSequences.size(); ++s) {
    for (int64_t t = kSequences[s]; t < kSequences[s + 1]; ++t) {
      const int64_t from = window > 0 ? std::max(kSequences[s], t + 1 - window) : kSequences[s];
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at_q = (t * heads + h) * d;
        const auto at_k = [&, kv_heads = kv_heads, d = d](int64_t key) { return (key * kv_heads + h / group) * d; };
        double sum = 0;
        for (int64_t key = from; key <= t; ++key) sum += std::exp(scale * dot(&q[at_q], &k[at_k(key)]));
        w.log_sums[h * T + t] = std::log(sum);
        double projection = 0, projection_magnitude = 0;
        for (int64_t i = 0; i < d && !out.empty(); ++i) {
          projection += dout[at_q + i] * out[at_q + i];
          projection_magnitude += std::abs(dout[at_q + i] * out[at_q + i]);
        }
        for (int64_t key = from; key <= t; ++key) {
          const double p = std::exp(scale * dot(&q[at_q], &k[at_k(key)])) / sum;
          const double dp = dot(&dout[at_q], &v[at_k(key)]);
          const double ds = p * (dp - projection) * scale;
          const double ds_magnitude = p * (std::sqrt(static_cast<double>(d)) + projection_magnitude) * scale;
          for (int64_t i = 0; i < d; ++i) {
            add_product(w.out[at_q + i], p, p, v[at_k(key) + i]);
            add_product(w.dv[at_k(key) + i], p, p, dout[at_q + i]);
            add_product(w.dq[at_q + i], ds, ds_magnitude, k[at_k(key) + i]);
            add_product(w.dk[at_k(key) + i], ds, ds_magnitude, q[at_q + i]);
          }
        }
      }
    }
  }
  return w;
}

class AttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(AttentionTest, ResultsAndGradientsEqualAttentionWrittenOut) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [heads, kv_heads, d, window] = shape;
  const int64_t T = kSequences.back();
  const std::vector<double> q_TW = random_values(T * heads * d, dtype, 1),
                            k_TW = random_values(T * kv_heads * d, dtype, 2),
                            v_TW = random_values(T * kv_heads * d, dtype, 3),
                            dout_TW = random_values(T * heads * d, dtype, 4);
  TestMatrix q(device, dtype, T, heads * d, 3, q_TW), k(device, dtype, T, kv_heads * d, 1, k_TW),
      v(device, dtype, T, kv_heads * d, 0, v_TW), dout(device, dtype, T, heads * d, 2, dout_TW);
  TestMatrix out(device, dtype, T, heads * d, 1), log_sums(device, sum_dtype(dtype), heads, T, 0),
      dq(device, dtype, T, heads * d, 0), dk(device, dtype, T, kv_heads * d, 2), dv(device, dtype, T, kv_heads * d, 1);
  const AttentionShape attention{heads, kv_heads, d, kSequences, window};
  const Queue queue = queue_on(device);

  causal_attention(attention, q.view(), k.view(), v.view(), out.view(), log_sums.view(), queue);
  causal_attention_gradient(attention, dout.view(), q.view(), k.view(), v.view(), out.view(), log_sums.view(),
                            dq.view(), dk.view(), dv.view(), queue);

  const Written expected = written_out(shape, q_TW, k_TW, v_TW, dout_TW, out.values());
  expect_close("out", out.values(), expected.out, dtype);
  expect_close("dq", dq.values(), expected.dq, dtype);
  expect_close("dk", dk.values(), expected.dk, dtype);
  expect_close("dv", dv.values(), expected.dv, dtype);
}

const auto kDtypes = Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64);
const auto kHeads = Values(Heads{2, 2, 8, 0}, Heads{6, 2, 10, 0}, Heads{3, 1, 16, 33});
INSTANTIATE_TEST_SUITE_P(Cpu, AttentionTest, Combine(Values(DeviceType::kCpu), kDtypes, kHeads), case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, AttentionTest, Combine(Values(DeviceType::kCuda), kDtypes, kHeads), case_name);

TEST(AttentionTest, RefusesShapesAndSequencesThatDisagree) {
  const auto attend = [](DType dtype, int64_t tokens, int64_t heads, std::vector<int64_t> cu_seqlens, int64_t lengths) {
    TestMatrix q(DeviceType::kCpu, DType::kFloat32, tokens, 8, 0), k(DeviceType::kCpu, dtype, tokens, 4, 0),
        out(DeviceType::kCpu, DType::kFloat32, tokens, 8, 0),
        log_sums(DeviceType::kCpu, DType::kFloat32, 2, lengths, 0);
    causal_attention({heads, 1, 4, cu_seqlens, 0}, q.view(), k.view(), k.view(), out.view(), log_sums.view());
  };
  const auto says = [](const char* text) { return ThrowsMessage<InvalidArgument>(HasSubstr(text)); };
  EXPECT_NO_THROW(attend(DType::kFloat32, 0, 2, {0}, 0));
  EXPECT_THAT(
      [&] {
        attend(DType::kFloat32, 3, 3, {0, 3}, 3);
      },
      says("3 heads of 4 on 1, window 0, of q [3, 8] float32, k [3, 4] float32"));
  EXPECT_THAT([&] { attend(DType::kBFloat16, 3, 2, {0, 3}, 3); }, says("k [3, 4] bfloat16"));
  EXPECT_THAT(
      [] {
        const std::vector<int64_t> none{0};
        causal_attention({0, 1, 4, none, 0}, {nullptr, DType::kFloat32, 0, 0, 0}, {nullptr, DType::kFloat32, 0, 4, 4},
                         {nullptr, DType::kFloat32, 0, 4, 4}, {nullptr, DType::kFloat32, 0, 0, 0},
                         {nullptr, DType::kFloat32, 0, 0, 0});
      },
      says("0 heads of 4 on 1"));
  EXPECT_THAT([&] { attend(DType::kFloat32, 3, 2, {0, 3}, 2); }, says("log_sums [2, 2] float32"));
  EXPECT_THAT([&] { attend(DType::kFloat32, 3, 2, {0, 2}, 3); }, says("the sequences are not the 3 tokens"));
  EXPECT_THAT([&] { attend(DType::kFloat32, 3, 2, {0, 2, 1, 3}, 3); }, says("cu_seqlens must rise from 0 to 3"));
}

}  // namespace
}  // namespace moe::kernels::testing
