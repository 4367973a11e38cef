// Every dispatcher of the registry, over threads: what comes back, what travels, and gradients, against one rank.

#include "parallel/dispatchers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "common/error.h"
#include "model/moe/moe_layer.h"
#include "parallel/all_to_all_dispatcher.h"
#include "parallel/gradient_sync.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

constexpr int64_t kExperts = 8, kTopK = 2, kHidden = 32, kWidth = 32;

at::Tensor seeded(std::vector<int64_t> shape, at::ScalarType dtype, int64_t salt) {
  at::Generator generator = at::detail::createCPUGenerator(97 + salt);
  return at::randn(shape, generator, at::TensorOptions(dtype));
}

struct Outcome {
  at::Tensor y, dx, router, gate_up, down;  ///< of all tokens and experts, in global order
};

/// The MoE layer on `tokens` tokens spread over `ranks` as `first_tokens` says, through one dispatcher; `to_one`: all
/// tokens to expert 0.
Outcome run(const std::string& name, int ranks, const std::vector<int64_t>& shares, at::ScalarType dtype, bool to_one) {
  Outcome outcome;
  std::mutex mutex;
  testing::run_ranks(ranks, [&](Communicator& world) {
    Mesh mesh(world, name == "local" ? 1 : ranks);
    const auto dispatcher = dispatchers().at(name)(mesh);
    const ExpertRange owned = dispatcher->owned_experts(kExperts);
    int64_t first = 0, tokens = 0;
    for (int r = 0; r < ranks; ++r) {
      if (r < world.rank()) first += shares[r];
      tokens += shares[r];
    }
    at::Tensor router = seeded({kExperts, kHidden}, dtype, 1);
    if (to_one) router[0] += 1000;
    MoeWeights weights{{router.set_requires_grad(true)},
                       seeded({kExperts, 2 * kWidth, kHidden}, dtype, 2)
                           .narrow(0, owned.first, owned.count)
                           .clone()
                           .set_requires_grad(true),
                       seeded({kExperts, kHidden, kWidth}, dtype, 3)
                           .narrow(0, owned.first, owned.count)
                           .clone()
                           .set_requires_grad(true),
                       std::nullopt};
    at::Tensor all = seeded({tokens, kHidden}, dtype, 4);
    if (to_one) all = all.abs();
    const at::Tensor x = all.narrow(0, first, shares[world.rank()]).clone().set_requires_grad(true);
    const at::Tensor direction = seeded({tokens, kHidden}, dtype, 5).narrow(0, first, shares[world.rank()]);
    const MoeOutput out = moe_layer(weights, {kExperts, {.top_k = kTopK}}, x, *dispatcher, 0);
    (out.y_TD * direction).sum().backward();
    std::vector<Parameter> parameters{
        {.name = "router", .value = weights.router.weight_ED, .id = {TensorPart::kRouter, 0}},
        {.name = "gate_up", .value = weights.gate_up, .is_expert = true, .id = {TensorPart::kGateUp, 0, kStack}},
        {.name = "down", .value = weights.down, .is_expert = true, .id = {TensorPart::kDown, 0, kStack}}};
    sum_gradients(parameters, mesh);
    const auto gathered = [&](const at::Tensor& part) { return world.all_gather(part.detach(), "gather"); };
    Outcome mine{gathered(out.y_TD), gathered(x.grad()), weights.router.weight_ED.grad(), weights.gate_up.grad(),
                 weights.down.grad()};
    if (owned.count < kExperts) {
      mine.gate_up = gathered(mine.gate_up);
      mine.down = gathered(mine.down);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    outcome = mine;
  });
  return outcome;
}

struct Spread {
  const char* name;
  std::vector<int64_t> shares;
  bool to_one = false;
};
const Spread kSpreads[] = {{"even2", {12, 12}},
                           {"even4", {6, 6, 6, 6}},
                           {"zero tokens on a rank", {24, 0}},
                           {"zero on two", {0, 20, 0, 4}},
                           {"no tokens", {0, 0}},
                           {"all to one expert", {12, 12}, true},
                           {"one rank", {24}}};

class DispatcherTest : public ::testing::TestWithParam<std::string> {};

TEST_P(DispatcherTest, ValuesAndGradientsEqualOneRankInDouble) {
  for (const Spread& spread : kSpreads) {
    int64_t tokens = 0;
    for (const int64_t share : spread.shares) tokens += share;
    const Outcome expected = run("local", 1, {tokens}, at::kDouble, spread.to_one);
    const Outcome actual =
        run(GetParam(), static_cast<int>(spread.shares.size()), spread.shares, at::kDouble, spread.to_one);
    EXPECT_TRUE(testing::near(actual.y, expected.y, 1e-12)) << spread.name;
    EXPECT_TRUE(testing::near(actual.dx, expected.dx, 1e-10)) << spread.name;
    EXPECT_TRUE(testing::near(actual.router, expected.router, 1e-10)) << spread.name;
    EXPECT_TRUE(testing::near(actual.gate_up, expected.gate_up, 1e-10)) << spread.name;
    EXPECT_TRUE(testing::near(actual.down, expected.down, 1e-10)) << spread.name;
  }
}

TEST_P(DispatcherTest, OutputsHaveTheSameBitsInFloat) {
  const Outcome expected = run("local", 1, {24}, at::kFloat, false);
  for (const std::vector<int64_t>& shares : {std::vector<int64_t>{12, 12}, std::vector<int64_t>{5, 7, 0, 12}}) {
    const Outcome actual = run(GetParam(), static_cast<int>(shares.size()), shares, at::kFloat, false);
    EXPECT_EQ(testing::rows_that_differ(actual.y, expected.y), 0);
  }
}

TEST_P(DispatcherTest, IdentityExpertsGiveTheTokensBack) {
  for (const int ranks : {1, 2, 4}) {
    testing::run_ranks(ranks, [&](Communicator& world) {
      Mesh mesh(world, GetParam() == "local" ? 1 : ranks);
      const auto dispatcher = dispatchers().at(GetParam())(mesh);
      const int64_t tokens = world.rank() == 1 ? 0 : 10 + world.rank();
      const at::Tensor x = seeded({tokens, kHidden}, at::kDouble, world.rank());
      const at::Tensor ids =
          at::stack({at::arange(tokens, at::kLong) % kExperts, (at::arange(tokens, at::kLong) * 3 + 1) % kExperts}, 1);
      const at::Tensor weights = at::full({tokens, kTopK}, 0.5, at::kDouble);
      const DispatchedTokens dispatched = dispatcher->dispatch({x, ids, weights, kExperts, "layer 3"});
      const at::Tensor y = dispatcher->combine(dispatched.rows_RD, dispatched);
      EXPECT_TRUE(testing::near(y, x, 1e-15));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, DispatcherTest, ::testing::ValuesIn(dispatchers().names()));

TEST(AllToAllDispatcherTest, SendsOneRowPerTokenAndDestination) {
  testing::run_ranks(2, [&](Communicator& world) {
    Mesh mesh(world, 2);
    AllToAllDispatcher dispatcher(mesh);
    // Both experts of token 0 live on rank 0, token 1's on both ranks, token 2's both on rank 1.
    const at::Tensor ids = at::tensor(std::vector<int64_t>{0, 3, 1, 6, 4, 7}, at::kLong).view({3, 2});
    dispatcher.dispatch({at::ones({3, kHidden}), ids, at::full({3, 2}, 0.5), kExperts, "layer 0"});
    EXPECT_EQ(dispatcher.traffic().rows_sent, 4);
    EXPECT_EQ(dispatcher.traffic().rows_received, 4);
  });
}

TEST(MeshTest, RefusesWhatDoesNotDivide) {
  testing::run_ranks(4, [](Communicator& world) {
    EXPECT_THAT([&] { Mesh(world, 3); }, ::testing::ThrowsMessage<InvalidArgument>(
                                             "expert_parallel 3 does not divide the 4 ranks; use one of 1, 2, 4"));
    Mesh mesh(world, 2);
    EXPECT_EQ(mesh.expert_group().rank(), world.rank() % 2);
    EXPECT_EQ(mesh.replica_group().rank(), world.rank() / 2);
    EXPECT_THROW(mesh.owned_experts(7), InvalidArgument);
    EXPECT_EQ(mesh.owned_experts(8).first, 4 * (world.rank() % 2));
  });
}

}  // namespace
}  // namespace moe
