#include "pipeline/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace moe {
namespace {

v1::GateSpec gate(const std::string& op, double value, const std::string& on_fail = "HOLD") {
  v1::GateSpec spec;
  spec.set_name("good");
  spec.set_metric("evaluate.loss.maths");
  spec.set_op(op);
  spec.set_value(value);
  spec.set_on_fail(on_fail);
  return spec;
}

GateVerdict judge(const v1::GateSpec& spec, double value) {
  return evaluate_gate(spec, {{"evaluate", {{"loss.maths", value}}}});
}

TEST(GateTest, EveryOperatorBelowAtAndAboveItsThreshold) {
  const std::map<std::string, std::vector<bool>> passes{{"<", {true, false, false}},
                                                        {"<=", {true, true, false}},
                                                        {"==", {false, true, false}},
                                                        {">=", {false, true, true}},
                                                        {">", {false, false, true}}};
  ASSERT_EQ(passes.size(), gate_operators().size());
  for (const auto& [op, expected] : passes) {
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(judge(gate(op, 1.5), 0.5 + i).outcome == GateOutcome::kPass, expected[i]) << op << " " << 0.5 + i;
    }
  }
}

TEST(GateTest, MissingAndNanFailEveryOperator) {
  for (const std::string& op : gate_operators()) {
    EXPECT_EQ(judge(gate(op, 1), std::nan("")).outcome, GateOutcome::kHold) << op;
    EXPECT_EQ(evaluate_gate(gate(op, 1), {}).outcome, GateOutcome::kHold) << op;
    EXPECT_EQ(evaluate_gate(gate(op, 1), {{"evaluate", {{"loss", 1.0}}}}).outcome, GateOutcome::kHold) << op;
  }
}

TEST(GateTest, OnFailDecides) {
  EXPECT_EQ(judge(gate("<", 1), 2).outcome, GateOutcome::kHold);
  EXPECT_EQ(judge(gate("<", 1, "FAIL"), 2).outcome, GateOutcome::kFail);
  EXPECT_EQ(judge(gate("<", 1, "WARN"), 2).outcome, GateOutcome::kWarn);
  EXPECT_EQ(judge(gate("<", 1, ""), 2).outcome, GateOutcome::kHold);
}

TEST(GateTest, MessagesSayValueThresholdAndWhatFollows) {
  EXPECT_EQ(judge(gate("<=", 1.25), 1.5).message, "gate 'good' fails: evaluate.loss.maths is 1.5, wanted <= 1.25");
  EXPECT_EQ(judge(gate("<=", 1.25), 1).message, "gate 'good' passes: evaluate.loss.maths is 1, wanted <= 1.25");
  EXPECT_EQ(judge(gate("<=", 1.25, "FAIL"), std::nan("")).message,
            "gate 'good' fails: evaluate.loss.maths is not a number (NaN), wanted <= 1.25; on_fail is FAIL, so the "
            "pipeline ends");
  EXPECT_EQ(evaluate_gate(gate("<=", 1.25, "WARN"), {}).message,
            "gate 'good' fails: evaluate.loss.maths was not measured, wanted <= 1.25; on_fail is WARN, so the pipeline "
            "goes on");
}

}  // namespace
}  // namespace moe
