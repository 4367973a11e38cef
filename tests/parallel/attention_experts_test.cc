// Attention as experts over ranks: what the owners get, and generation with caches, against one rank.
#include <gtest/gtest.h>

#include "model/decoder.h"
#include "parallel/dispatchers.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;

/// Rank r has the sequences {0, 1, ..}; the tokens of each go to experts by their position. An owner sees those of all
/// ranks, each by itself and in order.
TEST(SequenceDispatchTest, OwnersGetWholeSubsequencesWithTheirBounds) {
  testing::run_ranks(2, [](Communicator& world) {
    Mesh mesh(world, 2);
    const auto dispatcher = make_dispatcher(mesh);
    // Rank 0: sequences of 3 and 2 tokens; rank 1: one of 2. Experts 0 and 1 on rank 0, 2 and 3 on rank 1.
    const bool is_first = world.rank() == 0;
    const at::Tensor sequences = is_first ? at::tensor({0, 0, 0, 1, 1}, at::kLong) : at::tensor({0, 0}, at::kLong);
    const at::Tensor ids = is_first ? at::tensor({0, 2, 1, 2, 0, 3, 0, 1, 0, 2}, at::kLong).view({5, 2})
                                    : at::tensor({0, 3, 1, 0}, at::kLong).view({2, 2});
    const int64_t tokens = sequences.size(0);
    const at::Tensor place = at::arange(tokens, at::kDouble).unsqueeze(1) + (is_first ? 0 : 100);
    const DispatchedTokens dispatched = dispatcher->dispatch(
        {place, ids, at::ones({tokens, 2}, at::kDouble), 4, "layer 0", {sequences, at::cat({place, -place}, 1)}});
    const auto rows = [](const std::vector<double>& values) { return at::tensor(values, at::kDouble).unsqueeze(1); };
    const at::Tensor expected = is_first ? rows({0, 2, 3, 4, 100, 101, 1, 3, 101}) : rows({0, 1, 4, 2, 100});
    EXPECT_TRUE(at::equal(dispatched.rows_RD, expected)) << dispatched.rows_RD;
    EXPECT_TRUE(at::equal(dispatched.tag_values_RA, at::cat({expected, -expected}, 1)));
    EXPECT_EQ(dispatched.cu_seqlens,
              is_first ? (std::vector<int64_t>{0, 2, 4, 6, 7, 8, 9}) : (std::vector<int64_t>{0, 2, 3, 4, 5}));
  });
}

/// Two sequences on rank 0, one on rank 1, none on the others.
std::vector<int64_t> lengths_of(int rank) {
  if (rank == 0) return {6, 4};
  return rank == 1 ? std::vector<int64_t>{5} : std::vector<int64_t>();
}

/// Logits of each rank's sequences after a prompt of all but three tokens and three decoded ones.
std::vector<at::Tensor> generated(const Decoder& decoder, TokenDispatcher& dispatcher, int rank) {
  const at::NoGradGuard no_grad;
  const TokenBatch whole = testing::random_batch(lengths_of(rank), 61, 10 + rank);
  const size_t sequences = whole.cu_seqlens.size() - 1;
  KvCache cache;
  std::vector<at::Tensor> logits;
  for (int64_t step = 0; step < 4; ++step) {
    std::vector<at::Tensor> tokens{at::empty({0}, at::kLong)};
    std::vector<int64_t> bounds{0};
    for (size_t s = 0; s < sequences; ++s) {
      const int64_t prompt = whole.cu_seqlens[s + 1] - whole.cu_seqlens[s] - 3, count = step == 0 ? prompt : 1;
      tokens.push_back(whole.tokens_T.narrow(0, whole.cu_seqlens[s] + (step == 0 ? 0 : prompt + step - 1), count));
      bounds.push_back(bounds.back() + count);
    }
    const DecoderOutput out = decoder.forward({at::cat(tokens), bounds}, dispatcher, {.cache = &cache});
    logits.push_back(decoder.logits(out.hidden_TD));
  }
  return logits;
}

TEST(AttentionGenerationTest, CachesOfOwnSequencesGiveTheLogitsOfOneRank) {
  ModelConfig config = testing::with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 2, 1);
  for (const auto& [ranks, expert_parallel, kv_mode] :
       {std::tuple{2, 2, "routed"}, {4, 2, "routed"}, {4, 4, "routed"}, {2, 2, "dense"}, {4, 2, "dense"}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert_parallel ", expert_parallel, ", keys ", kv_mode));
    config.moe->attention->kv_mode = kv_mode;
    testing::run_ranks(ranks, [&, expert_parallel = expert_parallel](Communicator& world) {
      Mesh mesh(world, expert_parallel);
      const auto dispatcher = make_dispatcher(mesh);
      Decoder spread(config, at::kDouble, mesh.owned_experts(config)), whole(config, at::kDouble, all_experts(config));
      testing::fill_random(spread, 7);
      testing::fill_random(whole, 7);
      LocalDispatcher local;
      const std::vector<at::Tensor> actual = generated(spread, *dispatcher, world.rank()),
                                    expected = generated(whole, local, world.rank());
      for (size_t step = 0; step < expected.size(); ++step)
        EXPECT_TRUE(near(actual[step], expected[step], 1e-12)) << "rank " << world.rank() << " step " << step;
    });
  }
}

}  // namespace
}  // namespace moe
