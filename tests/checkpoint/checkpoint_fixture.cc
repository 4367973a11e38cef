#include "checkpoint/checkpoint_fixture.h"

#include <gtest/gtest.h>

#include <mutex>
#include <span>
#include <utility>

#include "common/file_io.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe::testing {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kExperts = 8;

}  // namespace

RankState::RankState(int rank, const CheckpointLayout& layout, uint64_t seed, at::ScalarType dtype)
    : writes_dense(rank == 0),
      writes_experts(rank < layout.expert_parallel),
      decoder(
          tiny_moe_config(kExperts, 2, 11), dtype,
          {kExperts / layout.expert_parallel * (rank % layout.expert_parallel), kExperts / layout.expert_parallel}) {
  const at::NoGradGuard no_grad;
  fill_random(decoder, seed);
  for (const Parameter& parameter : decoder.parameters()) {
    first.push_back(parameter.value * 0.5);
    second.push_back(parameter.value.square());
  }
}

std::vector<TensorRange> RankState::ranges() {
  std::vector<TensorRange> all;
  for (size_t i = 0; i < first.size(); ++i) {
    const Parameter& parameter = decoder.parameters()[i];
    const bool is_written = parameter.is_expert ? writes_experts : writes_dense;
    append_logical(all, parameter, parameter.value.detach(), "", is_written);
    append_logical(all, parameter, first[i], ".m", is_written);
    append_logical(all, parameter, second[i], ".v", is_written);
  }
  return all;
}

void save(const fs::path& root, const CheckpointLayout& layout, int64_t step, int attempt, uint64_t seed, int keep) {
  run_ranks(layout.ranks(), [&](Communicator& world) {
    RankState state(world.rank(), layout, seed);
    save_checkpoint(root, step, attempt, state.ranges(), {{"step", step}, {"seed", seed}}, world, keep);
  });
}

std::map<std::string, std::string> load(const fs::path& root, const CheckpointLayout& layout, nlohmann::json* scalars) {
  std::map<std::string, std::string> digests;
  std::mutex mutex;
  run_ranks(layout.ranks(), [&](Communicator& world) {
    RankState state(world.rank(), layout, /*seed=*/999);
    const auto loaded = load_newest_checkpoint(root, state.ranges(), world);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!loaded) return;
    if (scalars != nullptr) *scalars = *loaded;
    for (size_t i = 0; i < state.first.size(); ++i) {
      const Parameter& parameter = state.decoder.parameters()[i];
      const std::pair<const char*, at::Tensor> parts[] = {
          {"", parameter.value}, {".m", state.first[i]}, {".v", state.second[i]}};
      for (const auto& [suffix, storage] : parts) {
        for (const LogicalView& logical : logical_views(parameter, storage)) {
          const at::Tensor data = logical.view.contiguous();
          const std::string digest =
              xxh3_hex(std::span(static_cast<const std::byte*>(data.const_data_ptr()), data.nbytes()));
          const auto [known, is_new] = digests.emplace(logical.name + suffix, digest);
          EXPECT_EQ(known->second, digest) << logical.name << suffix << " differs between ranks";
        }
      }
    }
  });
  return digests;
}

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

}  // namespace moe::testing
