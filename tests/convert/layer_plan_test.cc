// What the converter refuses to take from a method: a fault of the method, named with layer and part.
#include "convert/layer_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "common/error.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

/// Two experts of two neurons and one of one, and a shared part of one, of six neurons.
LayerPlan good_plan() {
  return plan_of_neurons({{0, 3}, {1}, {5, 4}}, {2});
}

std::string fault(const std::function<void(LayerPlan&)>& spoil,
                  PlanLimits limits = {
                      .layer = 7, .experts = 3, .neurons = 6, .hidden_size = 4, .is_partition = true}) {
  LayerPlan plan = good_plan();
  spoil(plan);
  try {
    check_plan(plan, limits);
  } catch (const Internal& error) {
    return error.what();
  }
  return "";
}

TEST(LayerPlanTest, WidthsAndCopies) {
  EXPECT_EQ(good_plan().widths(), (LayerWidths{{2, 1, 2}, 1}));
  EXPECT_EQ(plan_of_neurons({{0}}).widths(), (LayerWidths{{1}, 0}));
  EXPECT_TRUE(is_copy_of_neurons(good_plan()));
  LayerPlan average = good_plan();
  average.experts[0].runs.push_back({.neurons = index_list({4, 5}), .adds = true});
  EXPECT_EQ(average.widths().experts[0], 2) << "what adds takes no room";
  EXPECT_FALSE(is_copy_of_neurons(average));
}

TEST(LayerPlanTest, FaultsAreNamed) {
  EXPECT_EQ(fault([](LayerPlan&) {}), "");
  EXPECT_THAT(fault([](LayerPlan& p) { p.experts.pop_back(); }), HasSubstr("2 experts of 3 (layer 7)"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.experts[1].runs.clear(); }), HasSubstr("expert 1 (layer 7) has no neurons"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.experts[1].runs[0].neurons = index_list({6}); }), HasSubstr("neuron 6 of 6"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.experts[1].runs[0].neurons = index_list({-1}); }),
              HasSubstr("neuron -1 of 6"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.shared.runs[0].model = 1; }),
              HasSubstr("the shared part (layer 7) takes from model 1 of 1"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.experts[0].runs.push_back({.neurons = index_list({4}), .adds = true}); }),
              HasSubstr("run 1 adds to no run of its length"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.router_ED = at::zeros({3, 4}); }), HasSubstr("no router and does"));
}

TEST(LayerPlanTest, PartitionsAreHeldToIt) {
  const std::vector<std::function<void(LayerPlan&)>> spoiled{
      [](LayerPlan& p) { p.experts[1].runs[0].neurons = index_list({0}); }, [](LayerPlan& p) { p.shared.runs.clear(); },
      [](LayerPlan& p) { p.experts[0].runs[0].down = 2; },
      [](LayerPlan& p) { p.experts[0].runs[0].remake = [](const FeedForwardWeights& ffn) { return ffn; }; }};
  for (const auto& spoil : spoiled) {
    EXPECT_THAT(fault(spoil), HasSubstr("is said to partition and does not (layer 7)"));
    EXPECT_EQ(fault(spoil, {.layer = 7, .experts = 3, .neurons = 6, .hidden_size = 4}), "");
  }
}

TEST(LayerPlanTest, RoutersHaveOneRowAnExpert) {
  const PlanLimits limits{.layer = 7, .experts = 3, .neurons = 6, .hidden_size = 4, .has_router = true};
  EXPECT_THAT(fault([](LayerPlan&) {}, limits), HasSubstr("a router and does not"));
  EXPECT_THAT(fault([](LayerPlan& p) { p.router_ED = at::zeros({2, 4}); }, limits), HasSubstr("float [3, 4]"));
  EXPECT_EQ(fault([](LayerPlan& p) { p.router_ED = at::zeros({3, 4}); }, limits), "");
}

}  // namespace
}  // namespace moe
