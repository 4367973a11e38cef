// What a token saves in a mixture whose experts are parts of a dense FFN: the forward pass of the layer, router, order
// and sums included, against that of the dense FFN, both by our kernels (LLaMA-MoE v1, section 5.2: the speed that half
// of the active parameters should give). "peer / ours" is the gain; N / K would be all of it.
//
//   moe_sparse_layer_bench [--threads N] [--seconds S] [--filter TEXT]

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bench.h"
#include "common/error.h"
#include "model/feed_forward.h"
#include "model/moe/moe_layer.h"

namespace moe {
namespace {

struct Shape {
  int64_t hidden, width;
};

/// A dense FFN and its neurons in `experts` equal parts, with a router.
struct Layer {
  Layer(const Shape& shape, int64_t experts, int64_t top_k, at::ScalarType dtype) {
    const auto drawn = [&](std::vector<int64_t> sizes) { return at::randn(sizes).mul_(0.02).to(dtype); };
    dense = {drawn({shape.width, shape.hidden}), drawn({shape.width, shape.hidden}),
             drawn({shape.hidden, shape.width})};
    const int64_t part = shape.width / experts;
    const at::Tensor gate = dense.gate.view({experts, part, shape.hidden}),
                     up = dense.up.view({experts, part, shape.hidden});
    sparse.gate_up = at::cat({gate, up}, 1).contiguous();
    sparse.down = dense.down.view({shape.hidden, experts, part}).permute({1, 0, 2}).contiguous();
    sparse.router.weight_ED = drawn({experts, shape.hidden});
    options = {.num_experts = experts, .router = {.top_k = top_k}};
  }

  at::Tensor forward(const at::Tensor& x_TD) const {
    LocalDispatcher dispatcher;
    return moe_layer(sparse, options, x_TD, dispatcher, 0).y_TD;
  }

  /// The same by masks over the dense FFN's neurons, in double. Source   docs/methods.md
  at::Tensor masked(const at::Tensor& x_TD) const {
    const at::Tensor x = x_TD.to(at::kDouble),
                     p_TE = at::softmax(at::linear(x, sparse.router.weight_ED.to(at::kDouble)), 1);
    const auto [chosen_TK, ids_TK] = p_TE.topk(options.router.top_k, 1);
    const at::Tensor weights_TE = at::zeros_like(p_TE).scatter(1, ids_TK, chosen_TK / chosen_TK.sum(1, true));
    const int64_t part = dense.gate.size(0) / options.num_experts;
    const at::Tensor h_TI =
        at::silu(at::linear(x, dense.gate.to(at::kDouble))) * at::linear(x, dense.up.to(at::kDouble));
    return at::linear(h_TI * weights_TE.repeat_interleave(part, 1), dense.down.to(at::kDouble));
  }

  FeedForwardWeights dense;
  MoeWeights sparse;
  MoeOptions options;
};

void measure(bench::Runner& runner, const Shape& shape, int64_t experts, int64_t top_k, at::ScalarType dtype,
             int64_t tokens) {
  const std::string name =
      concat("T", tokens, " ", shape.hidden, "->", shape.width, ", ", top_k, " of ", experts, " active");
  if (!runner.is_wanted(name)) return;
  at::manual_seed(1);
  const Layer layer(shape, experts, top_k, dtype);
  const at::Tensor x_TD = at::randn({tokens, shape.hidden}).to(dtype);
  at::Tensor ours, peer;
  const double active = 6.0 * static_cast<double>(tokens * shape.hidden * (shape.width * top_k / experts)) +
                        2.0 * static_cast<double>(tokens * shape.hidden * experts);
  runner.run({.name = name,
              .dtype = dtype == at::kFloat ? "float32" : "bfloat16",
              .ours = [&] { ours = layer.forward(x_TD); },
              .peer = [&] { peer = feed_forward(layer.dense, x_TD); },
              .error =
                  [&] {
                    const at::Tensor exact = layer.masked(x_TD);
                    // Tokens whose choice is a near tie may go another way in lower precision: the median is not
                    // theirs.
                    const at::Tensor errors_T = (ours.to(at::kDouble) - exact).norm(2, 1) / exact.norm(2, 1);
                    return errors_T.median().item<double>();
                  },
              .max_error = dtype == at::kFloat ? 1e-5 : 2e-2,
              .flops = active,
              .bytes = 0});
}

int run(int argc, const char* const* argv) {
  const at::NoGradGuard no_grad;
  bench::Runner runner("The forward pass of mixtures", "the dense FFN that they were made of", argc, argv);
  at::set_num_threads(runner.threads());
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const Shape& shape : {Shape{256, 768}, Shape{576, 1536}, Shape{2048, 5632}}) {
      for (const auto& [experts, top_k] : {std::pair{8, 1}, {8, 2}, {8, 4}, {16, 4}, {16, 8}})
        measure(runner, shape, experts, top_k, dtype, 4096);
    }
    measure(runner, {2048, 5632}, 8, 4, dtype, 1);
    measure(runner, {2048, 5632}, 8, 4, dtype, 64);
  }
  return runner.finish();
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  return moe::bench::run_main([&] { return moe::run(argc, argv); });
}
