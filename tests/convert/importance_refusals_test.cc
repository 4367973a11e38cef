// Sizes, texts and models of which methods that split by importance or by clusters cannot make experts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "common/error.h"
#include "convert/conversion_methods.h"
#include "convert/converter.h"
#include "convert/importance_fixture.h"
#include "convert/router_init.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ImportanceMethodsTest;
using testing::set_option;

TEST_F(ImportanceMethodsTest, SizesThatCannotBeSayWhatCan) {
  EXPECT_THAT(refusal(request("residual", 4, 0)),
              AllOf(HasSubstr("ffn.shared_experts is 0, and ffn.method residual"), HasSubstr("use 1 or more")));
  EXPECT_THAT(refusal(request("residual", 4, 1)),
              AllOf(HasSubstr("ffn.experts 4 and ffn.shared_experts 1 together do not divide the FFN width 48"),
                    HasSubstr("let their sum be one of 1, 2, 3, 4, 6")));
  EXPECT_THAT(refusal(request("importance", 4, 1)), HasSubstr("ffn.method importance has no shared part"));
  EXPECT_THAT(refusal(request("sharing_inter", 4, 0)), HasSubstr("ffn.shared_experts is 0"));
  EXPECT_THAT(refusal(request("sharing_inter", 4, 2, 17)),
              AllOf(HasSubstr("ffn.expert_width is 17"), HasSubstr("use 1 to 16")));
  v1::ConvertSpec disjoint = request("sharing_inter", 4, 2, 7);
  set_option(disjoint, "routed", "disjoint");
  EXPECT_THAT(refusal(disjoint), AllOf(HasSubstr("6 disjoint parts"), HasSubstr("have 8 each")));
  EXPECT_THAT(refusal(request("sharing_inner", 5, 0)), HasSubstr("or give ffn.expert_width"));
  EXPECT_THAT(refusal(request("sharing_inner", 5, 0, 49)), HasSubstr("use 1 to 48"));
  EXPECT_THAT(refusal(request("pruned_random", 2, 0, 12)), AllOf(HasSubstr("ffn.experts is 2"), HasSubstr("use 1")));
  EXPECT_THAT(refusal(request("pruned_gradient", 1, 0)),
              HasSubstr("ffn.expert_width is missing; say how many of 48 neurons"));
  EXPECT_THAT(refusal(request("pruned_gradient", 1, 0, 49)), HasSubstr("ffn.expert_width is 49"));
  EXPECT_THAT(refusal(request("independent_gradient", 4, 0, 12)), HasSubstr("makes its own widths"));
  v1::ConvertSpec untold = request("importance", 4, 0);
  untold.mutable_calibration()->clear_data();
  EXPECT_THAT(refusal(untold), HasSubstr("calibration.data is empty, and ffn.method importance needs text"));
  EXPECT_THAT(refusal(request("independent_gradient", 48, 0)), HasSubstr("for 48 groups"));
}

/// Sees whether anything was done.
struct UnitCounter final : WorkMonitor {
  void unit_done(const WorkProgress&) override { ++units; }
  int units = 0;
};

/// Before the first layer's importance, and on all ranks.
TEST_F(ImportanceMethodsTest, TooLittleTextIsRefusedBeforeAnyWork) {
  const OpenedModel source = open_model(dense());
  v1::ConvertSpec few = request("independent_gradient", 48, 0);
  few.mutable_calibration()->set_tokens(300);
  std::atomic<int> refused = 0;
  testing::run_ranks(2, [&](Communicator& world) {
    UnitCounter counter;
    try {
      convert_model({.spec = few,
                     .seed = kSeed,
                     .source = source.directory,
                     .text = source.text,
                     .output = out(),
                     .monitor = counter},
                    world);
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("ffn.method independent_gradient groups the documents"),
                                      HasSubstr("for 48 groups"), HasSubstr("raise calibration.tokens")));
      ++refused;
    }
    EXPECT_EQ(counter.units, 0);
  });
  EXPECT_EQ(refused, 2);
}

TEST(TextProblemTest, AsManyAsTheGroupsOrRowsWill) {
  const auto of = [](const std::string& method, const std::string& clusters, int64_t documents, int64_t tokens) {
    v1::ConvertSpec spec;
    spec.mutable_ffn()->set_method(method);
    spec.mutable_ffn()->set_experts(4);
    spec.mutable_ffn()->set_shared_experts(2);
    if (!clusters.empty()) set_option(spec, "clusters", clusters);
    const ConversionMethod& row = conversion_methods().at(method);
    return row.text_problem(spec.ffn(), MethodOptions(row.options, spec), {documents, tokens});
  };
  EXPECT_EQ(of("independent_gradient", "text", 4, 100), "");
  EXPECT_THAT(of("independent_gradient", "text", 3, 100), HasSubstr("there are 3 for 4 groups"));
  EXPECT_EQ(of("importance", "router", 1, 4), "");
  EXPECT_THAT(of("importance", "router", 1, 3), HasSubstr("there are 3 for experts 4"));
  EXPECT_EQ(of("residual", "text", 4, 100), "");
  EXPECT_EQ(of("sharing_inter", "text", 6, 100), "");
  EXPECT_THAT(of("sharing_inter", "text", 5, 100), HasSubstr("there are 5 for 6 groups"));
  EXPECT_EQ(of("weave", "", 2, 100), "");
  EXPECT_THAT(of("weave", "", 1, 100), HasSubstr("is 1 document"));
  for (const char* init : {"random_selection", "hidden_clustering"}) {
    EXPECT_EQ(router_inits().at(init).text_problem(4, 4), "") << init;
    EXPECT_THAT(router_inits().at(init).text_problem(4, 3), HasSubstr("experts 4")) << init;
  }
}

class GatelessTest : public testing::ConversionTest {
 protected:
  GatelessTest() : ConversionTest("phi") {}
};

TEST_F(GatelessTest, ClustersOfGateRowsNeedAGate) {
  v1::ConvertSpec spec = testing::convert_spec("independent_clustering", 4, 2);
  set_option(spec, "weights", "gate");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.options.weights is 'gate'"), HasSubstr("phi has no gate")));
}

}  // namespace
}  // namespace moe
