// What each method that splits by importance promises of its own: against importance measured beside the conversion,
// with assignments written out here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "convert/conversion_methods.h"
#include "convert/importance_fixture.h"
#include "convert/router_init.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using testing::convert;
using ::testing::HasSubstr;
using testing::ImportanceMethodsTest;
using testing::Neurons;
using testing::set_option;

constexpr int64_t kWidth = 48;

/// Neurons with their scores, the best first.
std::vector<std::pair<double, int64_t>> best_first(const at::Tensor& scores_F, const Neurons& without = {}) {
  std::vector<std::pair<double, int64_t>> all;
  for (int64_t j = 0; j < scores_F.size(0); ++j) {
    if (!without.contains(j)) all.emplace_back(-scores_F[j].item<double>(), j);
  }
  std::sort(all.begin(), all.end());
  return all;
}

Neurons top(const at::Tensor& scores_F, int64_t count, const Neurons& without = {}) {
  Neurons neurons;
  for (const auto& [score, neuron] : best_first(scores_F, without)) {
    if (static_cast<int64_t>(neurons.size()) < count) neurons.insert(neuron);
  }
  return neurons;
}

/// All pairs by falling score; of equal ones the higher expert, then the lower neuron.
std::vector<Neurons> greedy(const at::Tensor& scores_EF, int64_t capacity, const Neurons& without = {}) {
  std::vector<std::tuple<double, int64_t, int64_t>> pairs;
  for (int64_t e = 0; e < scores_EF.size(0); ++e) {
    for (const auto& [minus_score, neuron] : best_first(scores_EF[e], without))
      pairs.emplace_back(minus_score, -e, neuron);
  }
  std::sort(pairs.begin(), pairs.end());
  std::vector<Neurons> experts(scores_EF.size(0));
  Neurons given;
  for (const auto& [score, minus_expert, neuron] : pairs) {
    Neurons& expert = experts[-minus_expert];
    if (static_cast<int64_t>(expert.size()) == capacity || !given.insert(neuron).second) continue;
    expert.insert(neuron);
  }
  return experts;
}

at::Tensor per_token(const Importance& importance) {
  return importance.scores_GF / importance.tokens_G.to(at::kDouble).clamp_min(1).unsqueeze(1);
}

at::Tensor shares(const Importance& importance) {
  return importance.scores_GF / importance.scores_GF.sum(1, true);
}

TEST_F(ImportanceMethodsTest, SplitsGiveEachNeuronToTheExpertThatNeedsItMost) {
  v1::ConvertSpec by_text = request("independent_gradient", 4, 0), by_router = request("importance", 4, 0);
  const std::vector<Importance> text = measured(by_text, true, 4), router = measured(by_router, false, 4);
  for (const int64_t layer : {0, 1}) {
    EXPECT_EQ(parts(by_text, layer), greedy(shares(text[layer]), 12));
    EXPECT_EQ(parts(by_router, layer), greedy(per_token(router[layer]), 12));
  }
  EXPECT_NE(greedy(shares(text[0]), 12), greedy(per_token(text[0]), 12)) << "the option must matter";
  set_option(by_text, "normalise", "none");
  EXPECT_EQ(parts(by_text, 0), greedy(per_token(text[0]), 12));
  set_option(by_text, "clusters", "router");
  EXPECT_EQ(parts(by_text, 0), greedy(per_token(router[0]), 12)) << "which is the method importance";
  v1::ConvertSpec published = request("independent_gradient", 4, 0);
  published.set_preset("published");
  EXPECT_EQ(parts(published, 1), greedy(per_token(text[1]), 12));
}

/// v1 specification, T7.
TEST_F(ImportanceMethodsTest, SharingInnerTakesTheBestOfEachGroup) {
  for (const int width : {0, 5, 30, 48}) {
    const v1::ConvertSpec overlapping = request("sharing_inner", 4, 0, width);
    const std::vector<Importance> text = measured(overlapping, true, 4);
    std::vector<Neurons> expected;
    for (int64_t e = 0; e < 4; ++e) expected.push_back(top(text[1].scores_GF[e], width == 0 ? 12 : width));
    EXPECT_EQ(parts(overlapping, 1), expected) << width;
  }
}

/// In rounds: the neurons that stand in most of the groups' windows.
Neurons shared_of(const at::Tensor& scores_GF, int64_t window, size_t count) {
  Neurons shared;
  while (shared.size() < count) {
    std::map<int64_t, Neurons> by_count;
    for (int64_t j = 0; j < scores_GF.size(1); ++j) {
      int64_t windows = 0;
      for (int64_t g = 0; g < scores_GF.size(0); ++g) windows += top(scores_GF[g], window, shared).contains(j) ? 1 : 0;
      by_count[windows].insert(j);
    }
    for (const int64_t neuron : by_count.rbegin()->second) {
      if (shared.size() < count) shared.insert(neuron);
    }
  }
  return shared;
}

TEST_F(ImportanceMethodsTest, SharingInterSharesWhatMostGroupsNeed) {
  v1::ConvertSpec sharing = request("sharing_inter", 4, 2);
  const std::vector<Importance> text = measured(sharing, true, 6);
  const at::Tensor all = text[0].scores_GF, first = all.narrow(0, 0, 4);
  for (const bool counts_all : {false, true}) {
    if (counts_all) set_option(sharing, "count_all", "true");
    const Neurons shared = shared_of(counts_all ? all : first, 8, 16);
    std::vector<Neurons> expected;
    for (int64_t e = 0; e < 4; ++e) expected.push_back(top(first[e], 8, shared));
    expected.push_back(shared);
    EXPECT_EQ(parts(sharing, 0), expected) << counts_all;
  }
  EXPECT_NE(shared_of(all, 8, 16), shared_of(first, 8, 16)) << "the option must matter";
  sharing = request("sharing_inter", 4, 2);
  set_option(sharing, "routed", "disjoint");
  const Neurons shared = shared_of(first, 8, 16);
  std::vector<Neurons> expected = greedy(shares(text[0]).narrow(0, 0, 4), 8, shared);
  expected.push_back(shared);
  EXPECT_EQ(parts(sharing, 0), expected);
  Neurons whole;
  for (const Neurons& part : expected) whole.insert(part.begin(), part.end());
  EXPECT_EQ(whole.size(), kWidth) << "disjoint parts are a partition";
  sharing = request("sharing_inter", 4, 2, 10);
  EXPECT_EQ(parts(sharing, 0)[4].size(), 20U) << "two shared experts of a width of their own";
}

/// All experts at scale N with a router of zeros are the dense model, and the receipt says so.
TEST_F(ImportanceMethodsTest, DisjointSharingIsAPartition) {
  v1::ConvertSpec disjoint = request("sharing_inter", 4, 2);
  disjoint.mutable_ffn()->set_top_k(4);
  disjoint.mutable_router()->set_topk_norm("renorm");
  testing::count_all_alike(disjoint);
  const v1::ConvertSpec overlapping = disjoint;
  set_option(disjoint, "routed", "disjoint");
  const ConversionMethod& method = conversion_methods().at("sharing_inter");
  EXPECT_TRUE(makes_partition(method, disjoint.ffn()));
  EXPECT_FALSE(makes_partition(method, overlapping.ffn()));

  const nlohmann::json report = convert(disjoint, kSeed, dense(), out());
  EXPECT_EQ(report["receipt"]["all"]["weights"], "one");
  EXPECT_LT(report["receipt"]["all"]["relative_logit_difference"].get<double>(), 1e-5);
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  EXPECT_TRUE(testing::near(testing::logits_of(out(), batch, at::kDouble),
                            testing::logits_of(dense(), batch, at::kDouble), 1e-12));

  const nlohmann::json other = convert(overlapping, kSeed, dense(), folder_ / "overlapping");
  EXPECT_EQ(other["receipt"]["all"]["weights"], "router");
  EXPECT_FALSE(testing::near(testing::logits_of(folder_ / "overlapping", batch, at::kDouble),
                             testing::logits_of(dense(), batch, at::kDouble), 1e-3));
}

TEST_F(ImportanceMethodsTest, ResidualSharesAndPartitions) {
  const v1::ConvertSpec residual = request("residual", 3, 1);
  const std::vector<Importance> router = measured(residual, false, 3);
  for (const int64_t layer : {0, 1}) {
    const Neurons shared = shared_of(router[layer].scores_GF, 12, 12);
    std::vector<Neurons> expected = greedy(per_token(router[layer]), 12, shared);
    expected.push_back(shared);
    EXPECT_EQ(parts(residual, layer), expected);
  }
}

/// v2 specification, A4: top-1 at weight 1 and scale 1 is the dense model of the shared and the chosen neurons.
TEST_F(ImportanceMethodsTest, ResidualTopOneIsTheDenseModelOfItsNeurons) {
  v1::ConvertSpec residual = request("residual", 3, 1);
  residual.mutable_scale()->set_mode("fixed");
  residual.mutable_scale()->set_value(1);
  residual.mutable_router()->set_init("hidden_clustering");
  convert(residual, kSeed, dense(), out());
  const ModelDirectory mixture(out()), source(dense());
  const SafetensorsFile file(out() / "conversion.safetensors");
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  const at::NoGradGuard no_grad;
  const Decoder decoder = load_decoder(source, at::kDouble, {});
  LocalDispatcher dispatcher;
  ForwardOptions options;
  std::set<int64_t> chosen;
  options.neuron_mask = [&](int64_t layer, const at::Tensor& x) {
    const std::string mlp = concat("model.layers.", layer, ".mlp.");
    const at::Tensor logits = at::matmul(x, mixture.tensor(mlp + "router.weight").to(at::kDouble).t());
    at::Tensor mask = at::zeros({x.size(0), kWidth}, at::kDouble);
    mask.index_fill_(1, file.tensor(mlp + "shared_expert.neurons").to(at::kLong), 1);
    for (int64_t t = 0; t < x.size(0); ++t) {
      const int64_t expert = logits[t].argmax().item<int64_t>();
      chosen.insert(expert);
      mask[t].index_fill_(0, file.tensor(mlp + "experts.neurons")[expert].to(at::kLong), 1);
    }
    return mask;
  };
  const at::Tensor expected = decoder.logits(decoder.forward(batch, dispatcher, options).hidden_TD);
  EXPECT_EQ(chosen.size(), 3U);
  EXPECT_TRUE(testing::near(testing::logits_of(out(), batch, at::kDouble), expected, 1e-10));
}

/// The router of hidden_clustering, raw, has the rows by which `importance` grouped its tokens, bit for bit.
TEST_F(ImportanceMethodsTest, TheRouterIsThatOfTheGroups) {
  v1::ConvertSpec split = request("importance", 4, 0);
  split.mutable_router()->set_init("hidden_clustering");
  split.mutable_router()->set_scaling("raw");
  convert(split, kSeed, dense(), out());
  const std::vector<Importance> router = measured(split, false, 4);
  for (const int64_t layer : {0, 1}) {
    EXPECT_TRUE(at::equal(ModelDirectory(out()).tensor(concat("model.layers.", layer, ".mlp.router.weight")),
                          router[layer].group_rows_GD))
        << layer;
  }
}

/// And of a method that groups nothing, for which the router clusters the tokens itself.
TEST_F(ImportanceMethodsTest, TheRouterOfGroupsIsThatOfTheInit) {
  const auto routers = [&](const std::string& method) {
    v1::ConvertSpec spec = request(method, 4, 0);
    spec.mutable_router()->set_init("hidden_clustering");
    convert(spec, kSeed, dense(), folder_ / method);
    const ModelDirectory written(folder_ / method);
    return at::stack(
        {written.tensor("model.layers.0.mlp.router.weight"), written.tensor("model.layers.1.mlp.router.weight")});
  };
  EXPECT_TRUE(at::equal(routers("importance"), routers("sequential")));
}

std::string warned(const std::function<void()>& work) {
  ::testing::internal::CaptureStderr();
  work();
  return ::testing::internal::GetCapturedStderr();
}

TEST_F(ImportanceMethodsTest, WarnsOfARouterThatSendsOtherTokens) {
  const auto log_of = [&](const std::string& method, const std::string& clusters, const std::string& init) {
    v1::ConvertSpec spec = request(method, 3, method == "residual" ? 1 : 0);
    set_option(spec, "clusters", clusters);
    spec.mutable_router()->set_init(init);
    return warned([&] { convert(spec, kSeed, dense(), folder_ / concat("warned", made_++)); });
  };
  EXPECT_THAT(log_of("residual", "router", "random_selection"),
              AllOf(HasSubstr("event=router_init_apart method=residual router_init=random_selection"),
                    HasSubstr("set router: {init: hidden_clustering}")));
  EXPECT_THAT(log_of("independent_gradient", "router", "zero"), HasSubstr("event=router_init_apart"));
  for (const auto& [clusters, init] : {std::pair("router", "hidden_clustering"), std::pair("text", "random_selection")})
    EXPECT_THAT(log_of("importance", clusters, init), ::testing::Not(HasSubstr("router_init_apart"))) << clusters;
}

/// Rows that are given are not looked for again.
TEST(GivenCentroidsTest, AreTheRouter) {
  const at::Tensor x = testing::random_normal({20, 4}, 3, at::kFloat),
                   rows = testing::random_normal({3, 4}, 4, at::kFloat);
  const CalibrationFeatures features{x, 0, 20};
  const auto router = [&](const at::Tensor& centroids) {
    return router_inits()
        .at("hidden_clustering")
        .make({.experts = 3,
               .hidden_size = 4,
               .seed = 1,
               .scaling = "raw",
               .features = &features,
               .centroids_ED = centroids,
               .options = MethodOptions(router_inits().at("hidden_clustering").options, {}, false, "", "")},
              *make_self_communicator())
        .weights.weight_ED;
  };
  EXPECT_TRUE(at::equal(router(rows), rows));
  EXPECT_FALSE(at::equal(router({}), rows));
}

TEST_F(ImportanceMethodsTest, PrunedKeepsTheNeuronsAskedFor) {
  v1::ConvertSpec by_gradient = request("pruned_gradient", 1, 0, 20), at_random = request("pruned_random", 1, 0, 12);
  const std::vector<Importance> one = measured(by_gradient, false, 1);
  EXPECT_EQ(parts(by_gradient, 1), std::vector<Neurons>{top(one[1].scores_GF[0], 20)});
  const std::vector<Neurons> kept = parts(at_random, 0), experts = parts(request("independent_random", 4, 0), 0);
  EXPECT_EQ(kept, std::vector<Neurons>{experts[0]}) << "what one of its experts alone is worth";
  EXPECT_NE(kept, parts(at_random, 1));
}

/// Rows of gates in four planted directions, of up rows in none: the option finds them, and cosines do.
TEST_F(ImportanceMethodsTest, ClusteringLooksAtTheMatrixAskedFor) {
  testing::write_dense_model(folder_ / "planted", testing::tiny_config(), 11, [](const Parameter& parameter) {
    if (parameter.name.find("mlp.gate_proj.weight") == std::string::npos) return;
    for (int64_t j = 0; j < kWidth; ++j) parameter.value[j][j % 4] += 50;
  });
  for (const char* metric : {"l2", "cos"}) {
    v1::ConvertSpec spec = testing::convert_spec("independent_clustering", 4, 2);
    set_option(spec, "weights", "gate");
    set_option(spec, "metric", metric);
    convert(spec, kSeed, folder_ / "planted", folder_ / metric);
    const at::Tensor experts =
        SafetensorsFile(folder_ / metric / "conversion.safetensors").tensor("model.layers.0.mlp.experts.neurons");
    EXPECT_TRUE(at::equal(experts.to(at::kLong), at::arange(kWidth).view({12, 4}).t())) << metric << experts;
  }
}

}  // namespace
}  // namespace moe
