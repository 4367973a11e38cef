// The kernels against LibTorch's expression of the same. T tokens, I inputs, O outputs, D hidden, K slots, R rows.
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "bench.h"
#include "common/error.h"
#include "kernels/matmul.h"
#include "kernels/matmul_cpu.h"
#include "kernels/permute.h"

namespace moe::bench {
namespace {

using kernels::DType;
using kernels::MatrixView;

MatrixView view(const at::Tensor& x) {
  const DType dtype = x.scalar_type() == at::kFloat      ? DType::kFloat32
                      : x.scalar_type() == at::kBFloat16 ? DType::kBFloat16
                                                         : DType::kFloat64;
  return {x.data_ptr(), dtype, x.size(0), x.size(1), x.stride(0)};
}

std::string dtype_name(at::ScalarType type) {
  return type == at::kFloat ? "float32" : "bfloat16";
}

/// Largest difference, relative to the largest value.
double relative_error(const at::Tensor& ours, const at::Tensor& peer) {
  const at::Tensor expected = peer.to(at::kDouble);
  return ((ours.to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}
double max_error(at::ScalarType type) {
  return type == at::kFloat ? 1e-5 : 1e-2;
}

void linear_cases(Runner& runner, at::ScalarType type, const char* what, int64_t T, int64_t I, int64_t O) {
  const auto options = at::TensorOptions().dtype(type);
  const at::Tensor x = at::randn({T, I}, options), w = at::randn({O, I}, options), dy = at::randn({T, O}, options);
  const std::string shape = concat(what, " T", T, " ", I, "->", O);
  const auto run = [&](const char* product, const at::Tensor& like, auto ours, auto peer) {
    at::Tensor our_result = at::empty_like(like), peer_result = at::empty_like(like);
    runner.run({.name = concat(shape, " ", product),
                .dtype = dtype_name(type),
                .ours = [&] { ours(view(our_result)); },
                .peer = [&] { peer(peer_result); },
                .error = [&] { return relative_error(our_result, peer_result); },
                .max_error = max_error(type),
                .flops = 2.0 * static_cast<double>(T * I * O)});
  };
  run(
      "forward", dy, [&](MatrixView y) { kernels::linear_forward(view(x), view(w), y); },
      [&](at::Tensor& y) { at::mm_out(y, x, w.t()); });
  run(
      "input gradient", x, [&](MatrixView dx) { kernels::linear_input_gradient(view(dy), view(w), dx); },
      [&](at::Tensor& dx) { at::mm_out(dx, dy, w); });
  run(
      "weight gradient", w, [&](MatrixView dw) { kernels::linear_weight_gradient(view(dy), view(x), dw); },
      [&](at::Tensor& dw) { at::mm_out(dw, dy.t(), x); });
}

/// 8 experts of an MoE layer whose row counts are others at every repetition, as in training: 64 seeded routings in
/// turn, forward and both gradients.
void changing_rows_case(Runner& runner, at::ScalarType type, int64_t T, int64_t I, int64_t O) {
  constexpr int kExperts = 8, kRoutings = 64;
  std::mt19937_64 generator(5);
  std::vector<std::vector<int64_t>> rows(kRoutings, std::vector<int64_t>(kExperts, 0));
  for (auto& routing : rows) {
    for (int64_t t = 0; t < T; ++t) {
      ++routing[generator() % kExperts];
    }
  }
  const auto options = at::TensorOptions().dtype(type);
  const at::Tensor x = at::randn({T, I}, options), w = at::randn({kExperts, O, I}, options);
  const at::Tensor dy = at::randn({T, O}, options);
  at::Tensor y = at::empty_like(dy), dx = at::empty_like(x), dw = at::empty_like(w);
  at::Tensor peer_y = at::empty_like(dy), peer_dx = at::empty_like(x), peer_dw = at::empty_like(w);
  const auto each_expert = [&](size_t call, auto work) {
    int64_t first = 0;
    for (int64_t e = 0; e < kExperts; ++e) {
      const int64_t count = rows[call % kRoutings][static_cast<size_t>(e)];
      work(e, first, count);
      first += count;
    }
  };
  size_t our_call = 0, peer_call = 0;
  runner.run(
      {.name = concat("8 experts, changing rows, T", T, " ", I, "->", O, " forward + gradients"),
       .dtype = dtype_name(type),
       .ours =
           [&] {
             each_expert(our_call++, [&](int64_t e, int64_t first, int64_t count) {
               const auto part = [&](const at::Tensor& t) { return view(t.narrow(0, first, count)); };
               kernels::linear_forward(part(x), view(w[e]), part(y));
               kernels::linear_input_gradient(part(dy), view(w[e]), part(dx));
               kernels::linear_weight_gradient(part(dy), part(x), view(dw[e]));
             });
           },
       .peer =
           [&] {
             each_expert(peer_call++, [&](int64_t e, int64_t first, int64_t count) {
               const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, count); };
               at::Tensor y_part = part(peer_y), dx_part = part(peer_dx), dw_part = peer_dw[e];
               at::mm_out(y_part, part(x), w[e].t());
               at::mm_out(dx_part, part(dy), w[e]);
               at::mm_out(dw_part, part(dy).t(), part(x));
             });
           },
       .error =
           [&] {
             return std::max({relative_error(y, peer_y), relative_error(dx, peer_dx), relative_error(dw, peer_dw)});
           },
       .max_error = max_error(type),
       .flops = 6.0 * static_cast<double>(T * I * O)});
}

/// A weight gradient whose row counts are others at every call: 64 seeded ones, all of them in each repetition, so that
/// what the library compiles for counts not seen before is done when measuring begins. What that first pass took goes
/// to `notes`.
void weight_gradient_case(Runner& runner, at::ScalarType type, int64_t I, int64_t O, std::vector<std::string>& notes) {
  constexpr int kCounts = 64;
  constexpr int64_t kMost = 1024;
  const std::string name = concat("weight gradient, ", kCounts, " row counts, ", I, "->", O);
  if (!runner.is_wanted(name)) return;
  std::mt19937_64 generator(5);
  std::vector<int64_t> counts;
  double rows = 0;
  for (int i = 0; i < kCounts; ++i) {
    counts.push_back(static_cast<int64_t>(65 + generator() % (kMost - 64)));
    rows += static_cast<double>(counts.back());
  }
  const auto options = at::TensorOptions().dtype(type);
  const at::Tensor x = at::randn({kMost, I}, options), dy = at::randn({kMost, O}, options);
  at::Tensor dw = at::empty({O, I}, options), peer_dw = at::empty_like(dw);
  const auto ours = [&] {
    for (const int64_t count : counts)
      kernels::linear_weight_gradient(view(dy.narrow(0, 0, count)), view(x.narrow(0, 0, count)), view(dw));
  };
  const auto seconds_of = [&] {
    const auto start = std::chrono::steady_clock::now();
    ours();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const int64_t products = kernels::prepared_products();
  const double first = seconds_of();
  const int64_t prepared = kernels::prepared_products() - products;
  const double second = seconds_of();
  notes.push_back(concat(name, ", ", dtype_name(type), ": first pass ", first * 1e3, " ms, of which ", prepared,
                         " products prepared; second pass ", second * 1e3, " ms"));
  runner.run({.name = name,
              .dtype = dtype_name(type),
              .ours = ours,
              .peer =
                  [&] {
                    for (const int64_t count : counts)
                      at::mm_out(peer_dw, dy.narrow(0, 0, count).t(), x.narrow(0, 0, count));
                  },
              .error = [&] { return relative_error(dw, peer_dw); },
              .max_error = max_error(type),
              .flops = 2.0 * rows * static_cast<double>(I * O)});
}

void permute_cases(Runner& runner, at::ScalarType type, int64_t T, int64_t D, int64_t K) {
  const auto options = at::TensorOptions().dtype(type);
  const int64_t R = T * K;
  const at::Tensor slot_rows = at::randperm(R, at::kLong).view({T, K});  // every slot has a row of its own
  const at::Tensor row_slots = slot_rows.view({R}).argsort();
  const at::Tensor row_tokens = row_slots.div(K, "floor").contiguous();
  const at::Tensor weights = at::rand({T, K});
  const at::Tensor row_weights = weights.view({R}).index_select(0, row_slots).to(type).unsqueeze(1);
  const at::Tensor x = at::randn({T, D}, options), rows = at::randn({R, D}, options);
  at::Tensor out_rows = at::empty_like(rows), peer_rows = at::empty_like(rows);
  at::Tensor y = at::empty_like(x), peer_y = at::empty_like(x);
  at::Tensor dweights = at::empty({T, K}), peer_dweights;
  const std::string shape = concat(" T", T, " D", D, " K", K);
  const double row_bytes = static_cast<double>(D) * static_cast<double>(x.element_size());
  const auto add = [&](const std::string& name, double bytes, auto ours, auto peer, auto error) {
    runner.run({.name = name + shape,
                .dtype = dtype_name(type),
                .ours = ours,
                .peer = peer,
                .error = error,
                .max_error = max_error(type),
                .bytes = bytes});
  };
  add(
      "permute", 2 * row_bytes * static_cast<double>(R),
      [&] { kernels::permute(view(x), row_tokens.const_data_ptr<int64_t>(), view(out_rows)); },
      [&] { at::index_select_out(peer_rows, x, 0, row_tokens); }, [&] { return relative_error(out_rows, peer_rows); });
  add(
      "unpermute", row_bytes * static_cast<double>(R + T),
      [&] { kernels::unpermute(view(rows), slot_rows.const_data_ptr<int64_t>(), K, view(weights), view(y)); },
      [&] { peer_y.zero_().index_add_(0, row_tokens, rows * row_weights); }, [&] { return relative_error(y, peer_y); });
  add(
      "unpermute gradient", row_bytes * static_cast<double>(T + 2 * R),
      [&] {
        kernels::unpermute_gradient(view(x), view(rows), slot_rows.const_data_ptr<int64_t>(), K, view(weights),
                                    view(out_rows), view(dweights));
      },
      [&] {
        const at::Tensor dy_rows = x.index_select(0, row_tokens);
        at::mul_out(peer_rows, dy_rows, row_weights);
        peer_dweights = (dy_rows * rows).sum(1);
      },
      [&] {
        const at::Tensor by_row = dweights.view({R}).index_select(0, row_slots);
        return std::max(relative_error(out_rows, peer_rows), relative_error(by_row, peer_dweights));
      });
}

int run(int argc, char** argv) {
  Runner runner("Kernels", "LibTorch " TORCH_VERSION, argc, argv);
  at::set_num_threads(runner.threads());
  at::manual_seed(1);
  const at::NoGradGuard no_grad;
  std::vector<std::string> notes;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    linear_cases(runner, type, "dense", 512, 256, 768);
    linear_cases(runner, type, "expert", 128, 256, 192);
    linear_cases(runner, type, "expert", 128, 96, 256);
    linear_cases(runner, type, "expert", 128, 256, 86);
    linear_cases(runner, type, "head", 512, 512, 4096);
    linear_cases(runner, type, "dense", 512, 576, 1536);
    changing_rows_case(runner, type, 1024, 256, 192);
    weight_gradient_case(runner, type, 256, 192, notes);
    weight_gradient_case(runner, type, 96, 256, notes);
    weight_gradient_case(runner, type, 576, 1536, notes);
    permute_cases(runner, type, 1024, 256, 2);
    permute_cases(runner, type, 4096, 1024, 2);
  }
  if (!notes.empty()) std::printf("\n");
  for (const std::string& note : notes) std::printf("- %s\n", note.c_str());
  return runner.finish();
}

}  // namespace
}  // namespace moe::bench

int main(int argc, char** argv) {
  return moe::bench::run_main([&] { return moe::bench::run(argc, argv); });
}
