// Our side of benchmarks/train_vs_transformers.py: reads one JSON case a line, runs that many training steps (kind
// "model") or forward + backward passes of one MoE layer (kind "layer"), and answers with the seconds, the time per
// phase, and the share of the matrix-product peak measured here. A case's model lives until the next case comes, so
// that blocks can be interleaved with a peer. Row counts are others at every step, as packed rows and routed tokens
// make them in training: shorter_by() says how, and the answer tells how many products the library had to compile code
// for on the way.

#include <torch/types.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/model_directory.h"
#include "comm/communicator.h"
#include "common/error.h"
#include "common/memory_reuse.h"
#include "help.h"
#include "kernels/matmul.h"
#include "kernels/matmul_cpu.h"
#include "model/decoder.h"
#include "model/moe/moe_layer.h"
#include "parallel/gradient_sync.h"
#include "parallel/mesh.h"
#include "testing/tensor_memory.h"
#include "train/optimizer.h"
#include "train/parameter_groups.h"

namespace moe {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Of all threads of the process.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Best of a few large products, in GFLOP/s: input gradients, which have no slices to add up.
double measure_peak() {
  constexpr int64_t kSize = 1024;
  at::Tensor a = at::randn({kSize, kSize}), b = at::randn({kSize, kSize}), c = at::empty({kSize, kSize});
  const auto view = [](at::Tensor& t) {
    return kernels::MatrixView{t.mutable_data_ptr(), kernels::DType::kFloat32, kSize, kSize, kSize};
  };
  double best = 0;
  for (int i = 0; i < 10; ++i) {
    const auto start = Clock::now();
    kernels::linear_input_gradient(view(a), view(b), view(c));
    best = std::max(best, 2.0 * kSize * kSize * kSize / seconds_since(start) / 1e9);
  }
  return best;
}

/// By how many tokens a row of step `step` is shorter than the case says: 0 to 63, each once in 64 steps. The peer does
/// the same.
int64_t shorter_by(int64_t step) {
  return step * 37 % 64;
}

class Subject {
 public:
  virtual ~Subject() = default;
  virtual void step(std::map<std::string, double>& phases) = 0;
  /// Of the matrix products of the last step, forward and backward.
  virtual double flops() const = 0;
  /// Of the last step.
  virtual int64_t tokens() const = 0;
  /// What else there is to say, measured outside of the steps.
  virtual json facts() { return json::object(); }
};

/// A phase that is no part of the step: the gradient norm as it was computed before, for comparison.
constexpr char kNormByCopies[] = "norm_by_copies";

class ModelSubject final : public Subject {
 public:
  explicit ModelSubject(const json& c)
      : rows_(c["rows"]),
        full_length_(c["length"]),
        is_from_directory_(c["kind"] == "directory"),
        self_(make_self_communicator()),
        mesh_(*self_, 1),
        decoder_(is_from_directory_ ? decoder_in(c["path"].get<std::string>()) : decoder_of(c)) {
    require_gradients(in_groups(decoder_.parameters()));
    optimizer_ = std::make_unique<AdamW>(decoder_.parameters(), AdamWOptions{});
  }

  void step(std::map<std::string, double>& phases) override {
    new_batch();
    auto start = Clock::now();
    const auto lap = [&](const char* phase) {
      phases[phase] += seconds_since(start);
      start = Clock::now();
    };
    LocalDispatcher dispatcher;
    const DecoderOutput out = decoder_.forward(batch_, dispatcher);
    const at::Tensor loss = decoder_.token_losses(out.hidden_TD, labels_).mean();
    lap("forward");
    loss.backward();
    lap("backward");
    // Whichever comes first meets the gradients as the backward left them.
    double other_norm = 0;
    const auto compare = [&](bool is_turn) {
      if (!is_from_directory_ || !is_turn) return;
      other_norm = norm_by_copies();
      lap(kNormByCopies);
    };
    compare(steps_ % 2 == 0);
    const double norm = global_gradient_norm(decoder_.parameters(), mesh_);
    lap("norm");
    compare(steps_ % 2 == 1);
    MOE_CHECK(!is_from_directory_ || std::abs(norm / other_norm - 1) < 1e-6, norm, " is not ", other_norm);
    optimizer_->update(1e-4, std::min(1.0, 1 / norm), ++steps_);
    optimizer_->zero_gradients();
    lap("update");
  }

  json facts() override {
    if (!is_from_directory_) return json::object();
    int64_t parameters = 0;
    for (Parameter& parameter : decoder_.parameters()) {
      parameters += parameter.value.numel();
      parameter.value.mutable_grad() = at::ones_like(parameter.value);
    }
    const double ours = testing::peak_tensor_bytes([&] { global_gradient_norm(decoder_.parameters(), mesh_); });
    const double copies = testing::peak_tensor_bytes([&] { norm_by_copies(); });
    optimizer_->zero_gradients();
    return {{"parameters", parameters}, {"norm_bytes", ours}, {"norm_by_copies_bytes", copies}};
  }

  int64_t tokens() const override { return rows_ * length_; }

  double flops() const override {
    const ModelConfig& c = decoder_.config();
    const int64_t attention = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads);
    const int64_t ffn =
        c.moe ? 3 * c.hidden_size * c.moe->expert_widths[0] * c.moe->top_k + c.hidden_size * c.moe->num_experts
              : 3 * c.hidden_size * c.intermediate_size;
    const int64_t scores = length_ * c.num_heads * c.head_dim;  // causal: half of both products
    return 6.0 * static_cast<double>(rows_ * length_) *
           static_cast<double>(c.num_layers * (attention + ffn + scores) + c.hidden_size * c.vocab_size);
  }

 private:
  static Decoder decoder_in(const std::string& path) {
    const ModelDirectory directory(path);
    return load_decoder(directory, at::kFloat, all_experts(directory.config()));
  }

  static Decoder decoder_of(const json& c) {
    const ModelConfig config = config_of(c);
    Decoder decoder(config, at::kFloat, all_experts(config));
    for (Parameter& parameter : decoder.parameters()) {
      if (parameter.decays) {
        parameter.value.normal_(0, 0.02);
      } else {
        parameter.value.fill_(1);
      }
    }
    return decoder;
  }

  /// One operation of LibTorch, which makes a double of every element first.
  double norm_by_copies() {
    const at::NoGradGuard no_grad;
    double sum = 0;
    for (const Parameter& parameter : decoder_.parameters()) {
      const at::Tensor& gradient = parameter.value.grad();
      if (gradient.defined())
        sum += at::linalg_vector_norm(gradient, 2, {}, false, at::kDouble).square().item<double>();
    }
    return std::sqrt(sum);
  }

  static ModelConfig config_of(const json& c) {
    const json text = {{"model_type", "dense2moe"},
                       {"hidden_size", c["hidden"]},
                       {"intermediate_size", c["width"].get<int64_t>() * c["experts"].get<int64_t>()},
                       {"num_hidden_layers", c["layers"]},
                       {"num_attention_heads", c["heads"]},
                       {"num_key_value_heads", c["kv_heads"]},
                       {"vocab_size", c["vocab"]},
                       {"max_position_embeddings", 2048},
                       {"rms_norm_eps", 1e-5},
                       {"tie_word_embeddings", false},
                       {"moe",
                        {{"base_model_type", "llama"},
                         {"num_experts", c["experts"]},
                         {"top_k", c["top_k"]},
                         {"expert_widths", std::vector<int64_t>(c["layers"], c["width"])},
                         {"output_scale", std::vector<double>(c["layers"], 1.0)}}}};
    return parse_model_config(text.dump(), "benchmark case");
  }

  void new_batch() {
    length_ = full_length_ - shorter_by(steps_);
    batch_.tokens_T = at::randint(decoder_.config().vocab_size, {rows_ * length_}, at::kLong);
    batch_.cu_seqlens.clear();
    for (int64_t row = 0; row <= rows_; ++row) batch_.cu_seqlens.push_back(row * length_);
    labels_ = batch_.tokens_T.roll(-1);
  }

  int64_t rows_, full_length_, length_ = 0, steps_ = 0;
  const bool is_from_directory_;
  std::unique_ptr<Communicator> self_;
  Mesh mesh_;
  Decoder decoder_;
  std::unique_ptr<AdamW> optimizer_;
  TokenBatch batch_;
  at::Tensor labels_;
};

class LayerSubject final : public Subject {
 public:
  explicit LayerSubject(const json& c) : case_(c) {
    const int64_t experts = c["experts"], hidden = c["hidden"], width = c["width"];
    const auto leaf = [](std::vector<int64_t> shape) { return at::randn(shape).mul_(0.02).set_requires_grad(true); };
    weights_.router.weight_ED = leaf({experts, hidden});
    weights_.gate_up = leaf({experts, 2 * width, hidden});
    weights_.down = leaf({experts, hidden, width});
    options_ = {experts, {c["top_k"]}};
  }

  void step(std::map<std::string, double>& phases) override {
    x_ = at::randn({case_["tokens"].get<int64_t>() - shorter_by(steps_++), case_["hidden"].get<int64_t>()})
             .set_requires_grad(true);
    const auto start = Clock::now();
    LocalDispatcher dispatcher;
    const at::Tensor sum = moe_layer(weights_, options_, x_, dispatcher, 0).y_TD.sum();
    phases["forward"] += seconds_since(start);
    const auto middle = Clock::now();
    sum.backward();
    for (at::Tensor t : {weights_.router.weight_ED, weights_.gate_up, weights_.down, x_}) t.mutable_grad().reset();
    phases["backward"] += seconds_since(middle);
  }

  int64_t tokens() const override { return x_.size(0); }

  double flops() const override {
    return 6.0 * static_cast<double>(tokens()) * case_["hidden"].get<double>() *
           (3 * case_["width"].get<double>() * case_["top_k"].get<double>() + case_["experts"].get<double>());
  }

 private:
  json case_;
  MoeWeights weights_;
  MoeOptions options_;
  at::Tensor x_;
  int64_t steps_ = 0;
};

int serve() {
  double peak = 0;  // seen so far: other programs may have disturbed a measurement
  json current;
  std::unique_ptr<Subject> subject;
  for (std::string line; std::getline(std::cin, line);) {
    json wanted = json::parse(line);
    const int64_t steps = wanted["steps"];
    wanted.erase("steps");
    if (wanted != current) {
      subject.reset();
      if (wanted["kind"] != "layer") {
        subject = std::make_unique<ModelSubject>(wanted);
      } else {
        subject = std::make_unique<LayerSubject>(wanted);
      }
      current = wanted;
    }
    peak = std::max(peak, measure_peak());
    std::map<std::string, double> phases;
    const auto start = Clock::now();
    const double cpu_start = cpu_seconds();
    const int64_t products_before = kernels::prepared_products();
    double flops = 0;
    int64_t tokens = 0;
    for (int64_t i = 0; i < steps; ++i) {
      subject->step(phases);
      flops += subject->flops();
      tokens += subject->tokens();
    }
    const double aside = phases.contains(kNormByCopies) ? phases[kNormByCopies] : 0;
    const double seconds = seconds_since(start) - aside, cpu = cpu_seconds() - cpu_start;
    for (auto& [name, time] : phases) time /= seconds;
    json answer{{"seconds", seconds},
                {"cpu_seconds", cpu},
                {"phases", phases},
                {"tokens", tokens},
                {"products_compiled", kernels::prepared_products() - products_before},
                {"gflops", flops / seconds / 1e9},
                {"peak_gflops", peak},
                {"share_of_peak", flops / seconds / 1e9 / peak}};
    answer.update(subject->facts());
    std::cout << answer.dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  if (moe::is_help_wanted(argc, argv) || argc > 1) {
    std::cout << "Training steps of our models; benchmarks/train_vs_transformers.py drives it line by line.\n"
                 "usage: moe_train_bench < CASES, each a line of JSON:\n"
                 "  {\"kind\": \"model\", \"steps\": N, \"hidden\", \"width\", \"layers\", \"heads\", \"kv_heads\", "
                 "\"experts\", \"top_k\", \"vocab\",\n"
                 "   \"rows\", \"length\"}   that many training steps\n"
                 "  {\"kind\": \"directory\", \"steps\": N, \"path\", \"rows\", \"length\"}   training steps of a "
                 "model directory; beside the phases\n"
                 "   the gradient norm as one operation with a copy of each gradient in double, as a share of the step "
                 "without it,\n"
                 "   and the bytes of tensors that either norm makes\n"
                 "  {\"kind\": \"layer\", \"steps\": N, \"hidden\", \"width\", \"experts\", \"top_k\", \"tokens\"}   "
                 "forward + backward of one layer\n";
    return moe::is_help_wanted(argc, argv) ? 0 : 64;
  }
  moe::keep_freed_memory();  // as the trainer does
  return moe::serve();
}
