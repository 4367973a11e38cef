#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

#include "common/error.h"
#include "common/rng.h"
#include "parallel/all_to_all_dispatcher.h"
#include "parallel/dispatchers.h"
#include "parallel/parallel_checks.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe::testing {
namespace {

constexpr int64_t kExperts = 8, kHidden = 5, kLayers = 2;

/// How the tokens lie on the ranks and choose their experts.
struct Case {
  std::string name;
  std::vector<int64_t> tokens;  ///< of each rank
  int64_t top_k = 2;
  bool one_expert = false;  ///< all tokens choose expert 3
};

std::vector<Case> cases(int ranks) {
  std::vector<int64_t> uneven(ranks), none_on_last(ranks, 7), all_on_first(ranks, 0);
  for (int r = 0; r < ranks; ++r) uneven[r] = 4 + 3 * r;
  none_on_last.back() = 0;
  all_on_first.front() = 11;
  return {{"uneven", uneven},
          {"top-3", uneven, 3},
          {"one expert", uneven, 1, true},
          {"no tokens on the last rank", none_on_last},
          {"all tokens on rank 0", all_on_first},
          {"no tokens", std::vector<int64_t>(ranks, 0)}};
}

/// The data of all ranks, the same on each.
struct Problem {
  at::Tensor x, direction;               ///< [T, D]
  std::vector<at::Tensor> ids, weights;  ///< [layers] of [T, K]
  std::vector<at::Tensor> experts;       ///< [layers] of [E, D, D]
};

Problem make_problem(const Case& c) {
  const int64_t tokens = std::accumulate(c.tokens.begin(), c.tokens.end(), int64_t{0});
  Problem p{random_normal({tokens, kHidden}, 1), random_normal({tokens, kHidden}, 2), {}, {}, {}};
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    CounterRng rng(11, kStreamTest, static_cast<uint32_t>(layer));
    std::vector<int64_t> ids;
    for (int64_t token = 0; token < tokens; ++token) {
      std::set<int64_t> chosen;
      while (static_cast<int64_t>(chosen.size()) < c.top_k) {
        const int64_t id = c.one_expert ? 3 : static_cast<int64_t>(rng.below(kExperts));
        if (chosen.insert(id).second) ids.push_back(id);
      }
    }
    p.ids.push_back(at::tensor(ids, at::kLong).view({tokens, c.top_k}));
    p.weights.push_back(random_normal({tokens, c.top_k}, 3 + layer));
    p.experts.push_back(random_normal({kExperts, kHidden, kHidden}, 5 + layer));
  }
  return p;
}

at::Tensor leaf(const at::Tensor& tensor) {
  return tensor.detach().clone().set_requires_grad(true);
}

at::Tensor gradient_or_zeros(const at::Tensor& tensor) {
  return tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
}

struct Solution {
  at::Tensor y, x_gradient;
  std::vector<at::Tensor> weight_gradients, expert_gradients;
};

/// One token after the other, one expert after the other.
Solution solve_plainly(const Problem& p) {
  const at::Tensor x = leaf(p.x);
  std::vector<at::Tensor> weights, experts;
  at::Tensor h = x;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    weights.push_back(leaf(p.weights[layer]));
    experts.push_back(leaf(p.experts[layer]));
    std::vector<at::Tensor> rows;
    for (int64_t token = 0; token < h.size(0); ++token) {
      at::Tensor y = at::zeros({kHidden}, at::kDouble);
      for (int64_t k = 0; k < weights[layer].size(1); ++k) {
        const int64_t expert = p.ids[layer][token][k].item<int64_t>();
        y = y + weights[layer][token][k] * experts[layer][expert].mv(h[token]);
      }
      rows.push_back(y);
    }
    if (!rows.empty()) h = at::stack(rows);
  }
  (h * p.direction).sum().backward();
  Solution solution{h.detach(), gradient_or_zeros(x), {}, {}};
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    solution.weight_gradients.push_back(gradient_or_zeros(weights[layer]));
    solution.expert_gradients.push_back(gradient_or_zeros(experts[layer]));
  }
  return solution;
}

/// Rows of expert e times its own matrix.
at::Tensor apply_experts(const DispatchedTokens& dispatched, const at::Tensor& experts) {
  std::vector<at::Tensor> outputs;
  int64_t first = 0;
  for (int64_t e = 0; e < dispatched.rows_per_expert.numel(); ++e) {
    const int64_t rows = dispatched.rows_per_expert[e].item<int64_t>();
    outputs.push_back(dispatched.rows_RD.narrow(0, first, rows).mm(experts[e].t()));
    first += rows;
  }
  EXPECT_EQ(first, dispatched.rows_RD.size(0));
  return at::cat(outputs);
}

/// Different ranks per token, counted with a set.
int64_t count_destinations(const at::Tensor& ids, int64_t experts_per_rank) {
  int64_t count = 0;
  for (int64_t token = 0; token < ids.size(0); ++token) {
    std::set<int64_t> ranks;
    for (int64_t k = 0; k < ids.size(1); ++k) ranks.insert(ids[token][k].item<int64_t>() / experts_per_rank);
    count += static_cast<int64_t>(ranks.size());
  }
  return count;
}

void check_case(Mesh& mesh, const std::string& name, const Case& c) {
  Communicator& world = mesh.world();
  SCOPED_TRACE(
      concat(name, ", ", c.name, ", ", mesh.replicas(), " x ", mesh.expert_parallel(), " ranks, rank ", world.rank()));
  const Problem p = make_problem(c);
  const Solution expected = solve_plainly(p);
  const int64_t first = std::accumulate(c.tokens.begin(), c.tokens.begin() + world.rank(), int64_t{0});
  const auto mine = [&](const at::Tensor& all) { return all.narrow(0, first, c.tokens[world.rank()]); };

  const auto dispatcher = dispatchers().at(name)(mesh);
  const ExpertRange owned = dispatcher->owned_experts(kExperts);
  const at::Tensor x = leaf(mine(p.x));
  std::vector<at::Tensor> weights, experts;
  at::Tensor h = x;
  int64_t rows_sent = 0;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    weights.push_back(leaf(mine(p.weights[layer])));
    experts.push_back(leaf(p.experts[layer].narrow(0, owned.first, owned.count)));
    const DispatchedTokens dispatched =
        dispatcher->dispatch({h, mine(p.ids[layer]), weights[layer], kExperts, concat("layer ", layer)});
    h = dispatcher->combine(apply_experts(dispatched, experts[layer]), dispatched);
    rows_sent += count_destinations(mine(p.ids[layer]), owned.count);
  }
  // A rank without tokens has no loss, and yet takes part in every exchange of the others' backward.
  (h * mine(p.direction)).sum().backward();

  EXPECT_TRUE(near(h, mine(expected.y), 1e-12));
  EXPECT_TRUE(near(gradient_or_zeros(x), mine(expected.x_gradient), 1e-10));
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    EXPECT_TRUE(near(gradient_or_zeros(weights[layer]), mine(expected.weight_gradients[layer]), 1e-10))
        << "layer " << layer;
    at::Tensor sum = at::zeros({kExperts, kHidden, kHidden}, at::kDouble);
    sum.narrow(0, owned.first, owned.count).copy_(gradient_or_zeros(experts[layer]));
    world.all_reduce_sum(sum, "expert gradients of the test");
    EXPECT_TRUE(near(sum, expected.expert_gradients[layer], 1e-10)) << "layer " << layer;
  }
  if (const auto* all_to_all = dynamic_cast<const AllToAllDispatcher*>(dispatcher.get())) {
    EXPECT_EQ(all_to_all->traffic().rows_sent, rows_sent);
    at::Tensor difference =
        at::full({1}, all_to_all->traffic().rows_sent - all_to_all->traffic().rows_received, at::kLong);
    world.all_reduce_sum(difference, "traffic of the test");
    EXPECT_EQ(difference.item<int64_t>(), 0);
  }
}

}  // namespace

void check_dispatch(Communicator& world, const std::string& name, int least_expert_parallel) {
  for (int expert_parallel = least_expert_parallel; expert_parallel <= world.size(); expert_parallel *= 2) {
    if (name == "local" && expert_parallel > 1) continue;  // it holds all experts
    Mesh mesh(world, expert_parallel);
    for (const Case& c : cases(world.size())) check_case(mesh, name, c);
  }
}

void check_dispatch_bits(Communicator& world, const std::string& name) {
  const int64_t hidden = 67, tokens = 20 + world.rank(), seed = 100 + world.rank();
  Mesh mesh(world, name == "local" ? 1 : world.size());
  const auto dispatcher = dispatchers().at(name)(mesh);
  const at::Tensor x = random_normal({tokens, hidden}, seed, at::kFloat);
  const at::Tensor ids =
      random_normal({tokens, kExperts}, seed + 50).argsort(int64_t{1}, false).narrow(1, 0, 2).contiguous();
  const at::Tensor weights = random_normal({tokens, 2}, seed + 90, at::kFloat).softmax(1);
  // Experts that scale each element have the same bits whatever the rows beside it.
  const at::Tensor scales = random_normal({kExperts, hidden}, 7, at::kFloat);
  const auto pass = [&](TokenDispatcher& through) {
    const DispatchedTokens dispatched = through.dispatch({x, ids, weights, kExperts, "layer 0"});
    std::vector<at::Tensor> outputs;
    int64_t first = 0;
    const int64_t first_expert = through.owned_experts(kExperts).first;
    for (int64_t e = 0; e < dispatched.rows_per_expert.numel(); ++e) {
      const int64_t rows = dispatched.rows_per_expert[e].item<int64_t>();
      outputs.push_back(dispatched.rows_RD.narrow(0, first, rows) * scales[first_expert + e]);
      first += rows;
    }
    return through.combine(at::cat(outputs), dispatched);
  };
  LocalDispatcher local;
  const at::Tensor expected = pass(local), actual = pass(*dispatcher);
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_EQ(rows_that_differ(actual, expected), 0)
      << "of " << tokens << " on rank " << world.rank() << " of " << world.size();
}

}  // namespace moe::testing
