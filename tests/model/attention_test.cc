#include "model/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/ops.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

ModelConfig shape(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  ModelConfig config = testing::tiny_config();
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.rope.rotary_dims = head_dim;
  config.hidden_size = 20;
  config.max_positions = 128;
  return config;
}

AttentionWeights random_weights(const ModelConfig& c, at::ScalarType dtype) {
  const auto bias = [&](int64_t rows, uint64_t seed) {
    return random_normal({rows}, seed).to(dtype).requires_grad_(true);
  };
  const auto weight = [&](int64_t rows, int64_t columns, uint64_t seed) {
    return (random_normal({rows, columns}, seed) * 0.3).to(dtype).requires_grad_(true);
  };
  return {weight(c.num_heads * c.head_dim, c.hidden_size, 1),
          weight(c.num_kv_heads * c.head_dim, c.hidden_size, 2),
          weight(c.num_kv_heads * c.head_dim, c.hidden_size, 3),
          weight(c.hidden_size, c.num_heads * c.head_dim, 4),
          bias(c.num_heads * c.head_dim, 7),
          bias(c.num_kv_heads * c.head_dim, 8),
          bias(c.num_kv_heads * c.head_dim, 9),
          bias(c.hidden_size, 10)};
}

RopeAngles angles_of(const ModelConfig& config, const std::vector<int64_t>& cu_seqlens) {
  return RopeTable(config, at::kDouble).angles(cu_seqlens);
}

// The table against angles worked out here in double, by the formula theta^(-2j/d).
TEST(RopeTableTest, AnglesFollowTheFormula) {
  ModelConfig config = shape(2, 2, 16);
  config.rope.theta = 500000;
  const RopeAngles table = angles_of(config, {0, 100});
  double worst = 0;
  for (int64_t p = 0; p < 100; ++p) {
    for (int64_t j = 0; j < 8; ++j) {
      const double angle = static_cast<double>(p) * std::pow(500000.0, -2.0 * static_cast<double>(j) / 16);
      worst = std::max({worst, std::abs(table.cos[p][j].item<double>() - std::cos(angle)),
                        std::abs(table.sin[p][j].item<double>() - std::sin(angle))});
    }
  }
  EXPECT_LT(worst, 1e-5);  // the angles are fp32: up to 100 * 2^-24
}

// Attention written out with a mask over all tokens, in float64.
at::Tensor naive_attention(const ModelConfig& c, const AttentionWeights& w, const RopeAngles& rope, const at::Tensor& x,
                           const std::vector<int64_t>& cu_seqlens) {
  const int64_t tokens = x.size(0), group = c.num_heads / c.num_kv_heads, half = c.rope.rotary_dims / 2;
  at::Tensor mask = at::full({tokens, tokens}, -std::numeric_limits<double>::infinity(), at::kDouble);
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    for (int64_t t = cu_seqlens[s]; t < cu_seqlens[s + 1]; ++t) {
      mask[t].slice(0, std::max(cu_seqlens[s], t + 1 - c.attention_window.value_or(tokens)), t + 1).zero_();
    }
  }
  const auto heads = [&](const at::Tensor& weight, const at::Tensor& bias, int64_t head) {
    const int64_t first = head * c.head_dim, end = first + c.head_dim;
    return at::matmul(x, weight.slice(0, first, end).t()) + bias.slice(0, first, end);
  };
  const auto turn = [&](const at::Tensor& whole) {
    const at::Tensor h = whole.slice(1, 0, 2 * half), rest = whole.slice(1, 2 * half);
    const at::Tensor cos = rope.cos.repeat({1, 2}), sin = rope.sin.repeat({1, 2});
    return at::cat({h * cos + at::cat({-h.slice(1, half), h.slice(1, 0, half)}, 1) * sin, rest}, 1);
  };
  std::vector<at::Tensor> out;
  for (int64_t head = 0; head < c.num_heads; ++head) {
    const at::Tensor scores =
        at::matmul(turn(heads(w.q, w.q_bias, head)), turn(heads(w.k, w.k_bias, head / group)).t());
    out.push_back(at::matmul(at::softmax(scores / std::sqrt(static_cast<double>(c.head_dim)) + mask, 1),
                             heads(w.v, w.v_bias, head / group)));
  }
  return at::matmul(at::cat(out, 1), w.o.t()) + w.o_bias;
}

struct HeadShape {
  int64_t heads, kv_heads, head_dim, rotary_dims, window;
};
void PrintTo(const HeadShape& s, std::ostream* out) {
  *out << s.heads << "_" << s.kv_heads << "_" << s.head_dim << "_" << s.rotary_dims << "_" << s.window;
}
ModelConfig config_of(const HeadShape& s) {
  ModelConfig config = shape(s.heads, s.kv_heads, s.head_dim);
  config.rope.rotary_dims = s.rotary_dims;
  if (s.window > 0) config.attention_window = s.window;
  return config;
}
class AttentionTest : public ::testing::TestWithParam<HeadShape> {};
INSTANTIATE_TEST_SUITE_P(Heads, AttentionTest,
                         ::testing::Values(HeadShape{4, 4, 8, 8, 0}, HeadShape{4, 2, 8, 8, 0}, HeadShape{6, 2, 6, 6, 0},
                                           HeadShape{3, 1, 10, 4, 0}, HeadShape{5, 5, 4, 2, 0},
                                           HeadShape{4, 2, 8, 8, 2}, HeadShape{4, 2, 8, 8, 6},
                                           HeadShape{3, 1, 10, 4, 13}));

TEST_P(AttentionTest, ValueAndGradientsEqualAttentionWrittenOut) {
  const ModelConfig config = config_of(GetParam());
  const std::vector<int64_t> cu_seqlens{0,  5,  12, 19,
                                        20, 20, 33};  // equal neighbours, a single token, an empty sequence
  const RopeAngles rope = angles_of(config, cu_seqlens);
  std::vector<at::Tensor> values;
  std::vector<std::vector<at::Tensor>> gradients;
  for (const bool ours : {true, false}) {
    const AttentionWeights w = random_weights(config, at::kDouble);
    const at::Tensor x = random_normal({33, config.hidden_size}, 5).requires_grad_(true);
    const at::Tensor y =
        ours ? attention(config, w, rope, x, cu_seqlens) : naive_attention(config, w, rope, x, cu_seqlens);
    y.backward(random_normal({33, config.hidden_size}, 6));
    values.push_back(y.detach());
    gradients.push_back({x.grad(), w.q.grad(), w.k.grad(), w.v.grad(), w.o.grad(), w.q_bias.grad(), w.k_bias.grad(),
                         w.v_bias.grad(), w.o_bias.grad()});
  }
  EXPECT_TRUE(near(values[0], values[1], 1e-10));
  for (size_t i = 0; i < gradients[0].size(); ++i)
    EXPECT_TRUE(near(gradients[0][i], gradients[1][i], 1e-10)) << "gradient " << i;
}

TEST_P(AttentionTest, ACacheContinuesTheSequence) {
  const ModelConfig config = config_of(GetParam());
  const at::NoGradGuard no_grad;
  RopeTable rope(config, at::kDouble);
  const AttentionWeights w = random_weights(config, at::kDouble);
  const at::Tensor x = random_normal({9, config.hidden_size}, 5);
  const auto from = [&](int64_t first, int64_t count, LayerKvCache* cache) {
    const RopeAngles angles = rope.angles({0, count}, {first});
    std::vector<LayerKvCache*> caches;
    if (cache != nullptr) caches.push_back(cache);
    return attention(config, w, angles, x.narrow(0, first, count), {0, count}, caches);
  };
  const at::Tensor whole = from(0, 9, nullptr);
  LayerKvCache cache;
  EXPECT_TRUE(near(from(0, 5, &cache), whole.narrow(0, 0, 5), 1e-10));
  for (int64_t t = 5; t < 9; ++t) EXPECT_TRUE(near(from(t, 1, &cache), whole.narrow(0, t, 1), 1e-10)) << "token " << t;
}

}  // namespace
}  // namespace moe
