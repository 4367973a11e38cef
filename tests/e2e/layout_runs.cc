#include "e2e/layout_runs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "checkpoint/checkpointer.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "data/data_loader.h"
#include "parallel/dispatchers.h"
#include "parallel/gradient_sync.h"
#include "parallel/mesh.h"
#include "testing/compare.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/parameter_groups.h"
#include "train/train_step.h"
#include "train/training_state.h"

namespace moe::testing {
namespace {

constexpr uint64_t kSeed = 20261124;
constexpr int64_t kRows = 8;
/// Steps that runs in float32 are compared over; then rounding has grown.
constexpr int64_t kFloatSteps = 10;

ModelConfig small_config(const std::string& kind) {
  const ModelConfig config = tiny_moe_config(/*num_experts=*/8, /*top_k=*/2, /*expert_width=*/32,
                                             /*shared_width=*/kind == "llama" ? 0 : 16, kind);
  if (kind == "qwen2") return with_shared_gate(config, "sigmoid", 1, 2);
  return kind == "phi" ? with_shared_gate(config, "softmax", 2, 2) : config;
}

/// Documents of random ids, of several lengths.
std::filesystem::path write_documents(const TempDir& folder, int64_t vocab_size) {
  CounterRng rng(kSeed, kStreamTest);
  std::string lines;
  for (int d = 0; d < 300; ++d) {
    lines += "{\"ids\": [";
    const auto length = static_cast<int64_t>(5 + rng.below(40));
    for (int64_t i = 0; i < length; ++i) lines += (i == 0 ? "" : ", ") + std::to_string(rng.below(vocab_size));
    lines += "]}\n";
  }
  write_file_atomically(folder / "documents.jsonl", lines);
  return folder / "documents.jsonl";
}

/// Copies of the weights and moments of this rank under their logical names.
std::map<std::string, at::Tensor> state_of(Decoder& decoder, AdamW& optimizer) {
  std::map<std::string, at::Tensor> state;
  for (size_t i = 0; i < decoder.parameters().size(); ++i) {
    const Parameter& parameter = decoder.parameters()[i];
    const std::pair<const char*, at::Tensor> parts[] = {
        {"", parameter.value.detach()}, {".m", optimizer.first_moments()[i]}, {".v", optimizer.second_moments()[i]}};
    for (const auto& [suffix, storage] : parts) {
      for (const LogicalView& logical : logical_views(parameter, storage))
        state[logical.name + suffix] = logical.view.clone();
    }
  }
  return state;
}

/// Everything one rank needs.
struct Setup {
  Setup(Communicator& world, int expert_parallel, at::ScalarType dtype, const std::string& kind)
      : mesh(world, expert_parallel),
        dispatcher(make_dispatcher(mesh)),
        decoder(small_config(kind), dtype, mesh.owned_experts(small_config(kind))) {
    fill_random(decoder, kSeed);
  }
  Mesh mesh;
  std::unique_ptr<TokenDispatcher> dispatcher;
  Decoder decoder;
};

}  // namespace

LayoutRun run_layout(Communicator& world, int expert_parallel, at::ScalarType dtype, int64_t steps,
                     const std::filesystem::path& checkpoint_root, const std::string& kind) {
  const TempDir folder;
  Setup setup(world, expert_parallel, dtype, kind);
  PackingOptions packing;
  packing.sequence_length = 32;
  packing.seed = kSeed;
  packing.vocab_size = setup.decoder.config().vocab_size;
  DataLoader loader({{write_documents(folder, packing.vocab_size).string(), 1, "test", 0}}, nullptr, packing);

  LayoutRun run;
  {
    const at::NoGradGuard no_grad;
    const Mesh::Share share = setup.mesh.share_of(kRows);
    const PackedBatch batch = loader.batch(share.first, share.count);
    const DecoderOutput out = setup.decoder.forward({batch.tokens_T, batch.cu_seqlens}, *setup.dispatcher);
    run.first_token_losses =
        world.all_gather(setup.decoder.token_losses(out.hidden_TD, batch.labels_T), "first losses");
  }
  require_gradients(in_groups(setup.decoder.parameters()));
  AdamW optimizer(setup.decoder.parameters(), {});
  for (int64_t step = 1; step <= steps; ++step) {
    optimizer.zero_gradients();
    const StepOutcome outcome = compute_gradients(setup.decoder, *setup.dispatcher, setup.mesh, loader,
                                                  (step - 1) * kRows * 2, {kRows, 2, 0.01});
    sum_gradients(setup.decoder.parameters(), setup.mesh);
    const double norm = global_gradient_norm(setup.decoder.parameters(), setup.mesh);
    optimizer.update(1e-3, std::min(1.0, 1 / norm), step);
    run.losses.push_back(outcome.loss);
    run.expert_load.push_back(outcome.expert_load);
    if (step == (dtype == at::kDouble ? steps : std::min(steps, kFloatSteps)))
      run.state = state_of(setup.decoder, optimizer);
  }
  if (!checkpoint_root.empty()) {
    save_checkpoint(checkpoint_root, steps, 1, training_state(setup.decoder.parameters(), optimizer, setup.mesh),
                    {{"steps", steps}}, world, 1);
  }
  return run;
}

std::map<std::string, std::string> load_at_layout(Communicator& world, int expert_parallel, at::ScalarType dtype,
                                                  const std::filesystem::path& root, const std::string& kind) {
  Setup setup(world, expert_parallel, dtype, kind);
  AdamW optimizer(setup.decoder.parameters(), {});
  const auto scalars =
      load_newest_checkpoint(root, training_state(setup.decoder.parameters(), optimizer, setup.mesh), world);
  EXPECT_TRUE(scalars) << "no checkpoint below " << root;
  nlohmann::json mine = nlohmann::json::object();
  for (size_t i = 0; i < setup.decoder.parameters().size(); ++i) {
    const Parameter& parameter = setup.decoder.parameters()[i];
    const std::pair<std::string, at::Tensor> parts[] = {
        {"", parameter.value}, {".m", optimizer.first_moments()[i]}, {".v", optimizer.second_moments()[i]}};
    for (const auto& [suffix, storage] : parts) {
      for (const LogicalView& logical : logical_views(parameter, storage)) {
        const at::Tensor data = logical.view.contiguous();
        mine[logical.name + suffix] =
            xxh3_hex(std::span(static_cast<const std::byte*>(data.const_data_ptr()), data.nbytes()));
      }
    }
  }
  std::map<std::string, std::string> all;
  for (const std::string& part : world.all_gather_bytes(mine.dump(), "digests")) {
    const nlohmann::json digests = nlohmann::json::parse(part);
    for (const auto& [name, digest] : digests.items()) {
      const auto [known, is_new] = all.emplace(name, digest.get<std::string>());
      EXPECT_EQ(known->second, digest.get<std::string>()) << name << " differs between ranks";
    }
  }
  return all;
}

void expect_equal_runs(const LayoutRun& single, const LayoutRun& run, at::ScalarType dtype, const std::string& layout) {
  ASSERT_EQ(single.losses.size(), run.losses.size());
  double worst = 0;
  const size_t compared = dtype == at::kDouble ? run.losses.size() : std::min<size_t>(kFloatSteps, run.losses.size());
  for (size_t step = 0; step < compared; ++step)
    worst = std::max(worst, std::abs(run.losses[step] / single.losses[step] - 1));
  int64_t flips = 0, routed = 0;
  for (size_t step = 0; step < compared; ++step) {
    for (size_t layer = 0; layer < run.expert_load[step].size(); ++layer) {
      for (size_t expert = 0; expert < run.expert_load[step][layer].size(); ++expert) {
        flips += std::abs(run.expert_load[step][layer][expert] - single.expert_load[step][layer][expert]);
        routed += single.expert_load[step][layer][expert];
      }
    }
  }
  // Relative to the largest of the tensor: of weights, first and second moments.
  double worst_state[3] = {0, 0, 0};
  std::string worst_name[3];
  for (const auto& [name, value] : run.state) {
    const int kind = name.ends_with(".m") ? 1 : name.ends_with(".v") ? 2 : 0;
    // A bias of keys changes no attention: its gradient is rounding, which AdamW scales to whole steps.
    if (dtype == at::kFloat && kind == 0 && name.ends_with("k_proj.bias")) continue;
    const at::Tensor& expected = single.state.at(name);
    const double difference = max_difference(value, expected) / std::max(max_abs(expected), 1e-30);
    if (difference <= worst_state[kind]) continue;
    worst_state[kind] = difference;
    worst_name[kind] = name;
  }
  const int64_t different_bits = single.first_token_losses.ne(run.first_token_losses).sum().item<int64_t>();
  std::cout << layout << " " << c10::toString(dtype) << ": worst relative loss difference " << worst << " over "
            << compared << " steps, " << flips / 2 << " of " << routed << " assignments differ, " << different_bits
            << " of " << run.first_token_losses.numel() << " first token losses differ in bits; " << run.state.size()
            << " tensors: weights differ by " << worst_state[0] << " (" << worst_name[0] << "), moments by "
            << worst_state[1] << " (" << worst_name[1] << ") and " << worst_state[2] << " (" << worst_name[2] << ")\n";
  EXPECT_GT(run.state.size(), 50U) << "no state to compare";
  EXPECT_EQ(different_bits, 0) << "rows are computed alone: layouts must agree to the bit";
  if (dtype == at::kDouble) {
    EXPECT_LE(worst, 1e-9);
    EXPECT_LE(worst_state[0], 1e-9);
    EXPECT_LE(std::max(worst_state[1], worst_state[2]), 1e-12);
    EXPECT_EQ(flips, 0) << "routed counts differ";
  } else {
    EXPECT_LE(worst, 1e-5);
    EXPECT_LE(worst_state[0], 1e-4);
    EXPECT_LE(std::max(worst_state[1], worst_state[2]), 5e-5);
    EXPECT_LE(static_cast<double>(flips) / 2, 1e-4 * static_cast<double>(routed));
  }
}

}  // namespace moe::testing
