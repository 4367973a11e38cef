// Layouts as threads: 1, 2 and 4 ranks, experts spread and replicated.

#include <gtest/gtest.h>

#include <mutex>

#include "common/error.h"
#include "e2e/layout_runs.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

struct Layout {
  int ranks;
  int expert_parallel;
  std::string name() const {
    return "EP " + std::to_string(expert_parallel) + " x EDP " + std::to_string(ranks / expert_parallel);
  }
};
constexpr Layout kLayouts[] = {{1, 1}, {2, 2}, {2, 1}, {4, 4}, {4, 2}, {4, 1}};

/// Runs a layout; every rank must end with the same result, and replicas with the same bits. The state is that of all
/// ranks.
testing::LayoutRun run(const Layout& layout, at::ScalarType dtype, int64_t steps,
                       const std::filesystem::path& root = {}, const std::string& kind = "llama") {
  testing::LayoutRun result;
  std::mutex mutex;
  testing::run_ranks(layout.ranks, [&](Communicator& world) {
    testing::LayoutRun mine = testing::run_layout(world, layout.expert_parallel, dtype, steps, root, kind);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!result.losses.empty()) {
      EXPECT_EQ(result.losses, mine.losses) << "ranks report different losses";
    }
    for (const auto& [name, value] : result.state) {
      const auto [replica, is_new] = mine.state.emplace(name, value);
      if (!is_new) {
        EXPECT_TRUE(at::equal(replica->second, value)) << name << " differs between ranks, " << layout.name();
      }
    }
    result = std::move(mine);
  });
  return result;
}

class LayoutsTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(LayoutsTest, AgreeWithOneRank) {
  const int64_t steps = 50;
  const testing::LayoutRun single = run(kLayouts[0], GetParam(), steps);
  EXPECT_LT(single.losses.back(), single.losses.front()) << "it must learn something";
  for (const Layout& layout : kLayouts) {
    testing::expect_equal_runs(single, run(layout, GetParam(), steps), GetParam(), "threads, " + layout.name());
  }
}
INSTANTIATE_TEST_SUITE_P(Types, LayoutsTest, ::testing::Values(at::kDouble, at::kFloat),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

/// Biases of experts and the output bias, an FFN without a gate, a shared expert and a gate of it: trained alike at 1,
/// 2 and 4 ranks, and their checkpoint is one thing.
class FamilyLayoutsTest : public ::testing::TestWithParam<const char*> {};

TEST_P(FamilyLayoutsTest, AgreeWithOneRank) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const testing::LayoutRun single = run({1, 1}, dtype, 25, {}, GetParam());
    EXPECT_LT(single.losses.back(), single.losses.front()) << "it must learn something";
    for (const Layout& layout : {Layout{2, 2}, Layout{2, 1}, Layout{4, 4}}) {
      testing::expect_equal_runs(single, run(layout, dtype, 25, {}, GetParam()), dtype,
                                 concat(GetParam(), ", threads, ", layout.name()));
    }
  }
}

TEST_P(FamilyLayoutsTest, ACheckpointOfTwoRanksLoadsOnOne) {
  const testing::TempDir root;
  run({2, 2}, at::kFloat, 2, root.path(), GetParam());
  std::map<std::string, std::string> found[2];
  for (const int ranks : {1, 2}) {
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      auto mine = testing::load_at_layout(world, ranks, at::kFloat, root.path(), GetParam());
      const std::lock_guard<std::mutex> lock(mutex);
      found[ranks - 1] = std::move(mine);
    });
  }
  EXPECT_GT(found[0].size(), 100U);
  EXPECT_EQ(found[0], found[1]);
}
INSTANTIATE_TEST_SUITE_P(Kinds, FamilyLayoutsTest, ::testing::Values("llama_biases", "qwen2", "phi"),
                         [](const auto& test) { return std::string(test.param); });

TEST(LayoutCheckpointTest, OfAnyLayoutLoadsInAnyOther) {
  for (const Layout& writer : kLayouts) {
    const testing::TempDir root;
    run(writer, at::kFloat, 2, root.path());
    std::map<std::string, std::string> expected;
    for (const Layout& reader : kLayouts) {
      std::map<std::string, std::string> found;
      std::mutex mutex;
      testing::run_ranks(reader.ranks, [&](Communicator& world) {
        auto mine = testing::load_at_layout(world, reader.expert_parallel, at::kFloat, root.path());
        const std::lock_guard<std::mutex> lock(mutex);
        found = std::move(mine);
      });
      if (expected.empty()) expected = found;
      EXPECT_FALSE(found.empty());
      EXPECT_EQ(expected, found) << "written at " << writer.name() << ", read at " << reader.name();
    }
  }
}

}  // namespace
}  // namespace moe
