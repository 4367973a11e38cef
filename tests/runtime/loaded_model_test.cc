#include "runtime/loaded_model.h"

#include <gtest/gtest.h>

#include <atomic>

#include "comm/agreement.h"
#include "common/error.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

class LoadedModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_model(folder_ / "moe", testing::tiny_moe_config(4, 2, 12), 1, at::kFloat);
    testing::write_tiny_model(folder_ / "dense", testing::tiny_config(), 1, at::kFloat);
  }

  /// Hidden states of a batch by the model of this directory in one process.
  at::Tensor alone(const std::string& name, at::ScalarType dtype) const {
    const LoadedModel model = load_model(open_model(folder_ / name), dtype);
    return model.decoder.forward(batch_, *model.dispatcher).hidden_TD;
  }

  const at::NoGradGuard no_grad_;
  const TokenBatch batch_ = testing::random_batch({5, 9}, 61, 3);
  testing::TempDir folder_;
};

TEST_F(LoadedModelTest, ComputesTheSameBitsInOneProcessAndOnEveryMesh) {
  for (const char* name : {"moe", "dense"}) {
    const at::Tensor expected = alone(name, at::kFloat);
    for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 2}, {4, 4}}) {
      SCOPED_TRACE(std::string(name) + ", " + std::to_string(ranks) + " ranks, " + std::to_string(expert_parallel));
      testing::run_ranks(ranks, [&, expert_parallel = expert_parallel](Communicator& world) {
        const at::NoGradGuard no_grad;
        Mesh mesh(world, expert_parallel);
        const LoadedModel model = load_model(folder_ / name, mesh, at::kFloat);
        EXPECT_EQ(model.path, folder_ / name);
        EXPECT_EQ(model.text.tokenizer, nullptr);
        EXPECT_TRUE(at::equal(model.decoder.forward(batch_, *model.dispatcher).hidden_TD, expected));
      });
    }
  }
}

/// The commands' --top-k; tests/eval/forced_routing_test.cc has it on meshes.
TEST_F(LoadedModelTest, AnotherTopKIsThatOfAnotherConfig) {
  for (const int64_t top_k : {1, 3, 4}) {
    const std::string name = "top" + std::to_string(top_k);
    testing::write_tiny_model(folder_ / name, testing::tiny_moe_config(4, top_k, 12), 1, at::kFloat);
    OpenedModel opened = open_model(folder_ / "moe");
    opened.directory.use_top_k(top_k);
    const LoadedModel model = load_model(opened);
    EXPECT_EQ(model.config().moe->top_k, top_k);
    EXPECT_TRUE(at::equal(model.decoder.forward(batch_, *model.dispatcher).hidden_TD, alone(name, at::kFloat)));
  }
  OpenedModel opened = open_model(folder_ / "moe"), dense = open_model(folder_ / "dense");
  for (const int64_t wrong : {0, 5}) EXPECT_THROW(opened.directory.use_top_k(wrong), InvalidArgument);
  EXPECT_THROW(dense.directory.use_top_k(1), InvalidArgument);
}

TEST_F(LoadedModelTest, ComputesInTheTypeAskedFor) {
  EXPECT_EQ(alone("moe", at::kDouble).scalar_type(), at::kDouble);
  EXPECT_EQ(alone("moe", at::kFloat).scalar_type(), at::kFloat);
}

TEST_F(LoadedModelTest, ExpertsThatCannotBeSpreadAreRefusedOnEveryRank) {
  std::atomic<int> told = 0;
  testing::run_ranks(3, [&](Communicator& world) {
    Mesh mesh(world, 3);
    try {
      load_model(folder_ / "moe", mesh, at::kFloat);
    } catch (const InvalidArgument& error) {
      EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << error.what();
      ++told;
    }
  });
  EXPECT_EQ(told, 3);
}

}  // namespace
}  // namespace moe
