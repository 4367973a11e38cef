#include "pipeline/advance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "pipeline/defaults.h"
#include "pipeline/spec.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// convert -> parity-eval -> gate parity (HOLD) -> stage1 -> gate balance (FAIL) -> evaluate, with one free-standing
// stage before the gates.
PipelineState sample(const std::string& parity_on_fail = "HOLD") {
  return make_pipeline_state(effective_spec(load_pipeline_or_throw(R"(apiVersion: moe/v1
kind: Pipeline
name: a
inputs: {dense: {path: m}}
stages:
  - {name: convert, convert: {input: dense, ffn: {method: m, experts: 8, top_k: 2}, calibration: {data: [{path: c.jsonl}]}}}
  - {name: parity-eval, evaluate: {input: convert.model, baseline: dense, data: [{path: v.jsonl}]}}
  - gate: {name: parity, metric: parity-eval.loss_ratio_to_baseline, op: "<=", value: 3, on_fail: )" +
                                                                       parity_on_fail + R"(}
  - {name: stage1, train: {input: convert.model, steps: 10, data: [{path: a.jsonl}]}}
  - gate: {name: balance, metric: stage1.dead_expert_fraction, op: "<=", value: 0.01, on_fail: FAIL}
  - {name: evaluate, evaluate: {input: stage1.model, data: [{path: v.jsonl}]}}
)",
                                                                   "a.yaml", {}, {})));
}

std::vector<std::string> act(PipelineState& state, const Event& event) {
  std::vector<std::string> texts;
  for (const Action& action : advance(state, event)) {
    if (const auto* start = std::get_if<StartStage>(&action)) texts.push_back("start " + start->name);
    if (const auto* note = std::get_if<GateNote>(&action))
      texts.push_back(std::string(to_string(note->status)) + " " + note->gate);
    if (const auto* hold = std::get_if<Hold>(&action)) texts.push_back("hold " + hold->gate);
    if (const auto* finish = std::get_if<Finish>(&action))
      texts.push_back(std::string("finish ") + to_string(finish->phase));
  }
  return texts;
}

const StageSucceeded kGoodParity{"parity-eval", {{"loss_ratio_to_baseline", 2.0}}};
const StageSucceeded kBadParity{"parity-eval", {{"loss_ratio_to_baseline", 4.0}}};

TEST(AdvanceTest, StraightThrough) {
  PipelineState state = sample();
  EXPECT_THAT(act(state, Start{}), ElementsAre("start convert"));
  EXPECT_THAT(act(state, StageStarted{"convert"}), IsEmpty());
  EXPECT_EQ(state.stages[0].status, StageStatus::kRunning);
  EXPECT_THAT(act(state, StageSucceeded{"convert", {}}), ElementsAre("start parity-eval"));
  EXPECT_THAT(act(state, kGoodParity), ElementsAre("PASSED parity", "start stage1"));
  EXPECT_THAT(act(state, StageSucceeded{"stage1", {{"dead_expert_fraction", 0.0}}}),
              ElementsAre("PASSED balance", "start evaluate"));
  EXPECT_THAT(act(state, StageSucceeded{"evaluate", {}}), ElementsAre("finish SUCCEEDED"));
  EXPECT_EQ(state.phase, PipelinePhase::kSucceeded);
}

TEST(AdvanceTest, StagesThatAreReadyTogetherStartTogether) {
  PipelineState state = sample("WARN");
  act(state, Start{});
  // Remove the gate between them: parity-eval and stage1 read only the converted model.
  state.stages.erase(state.stages.begin() + 2);
  EXPECT_THAT(act(state, StageSucceeded{"convert", {}}), ElementsAre("start parity-eval", "start stage1"));
}

TEST(AdvanceTest, AFinishedStageIsSkippedAndItsMetricsCount) {
  PipelineState state = sample();
  act(state, Start{});
  act(state, StageSucceeded{"convert", {}, true});
  EXPECT_EQ(state.stages[0].status, StageStatus::kSkipped);
  EXPECT_THAT(act(state, StageSucceeded{"parity-eval", {{"loss_ratio_to_baseline", 1.0}}, true}),
              ElementsAre("PASSED parity", "start stage1"));
}

TEST(AdvanceTest, AHeldGateWaitsForItsApproval) {
  PipelineState state = sample();
  act(state, Start{});
  act(state, StageSucceeded{"convert", {}});
  EXPECT_THAT(act(state, kBadParity), ElementsAre("hold parity"));
  EXPECT_EQ(state.phase, PipelinePhase::kHeld);
  EXPECT_THAT(state.stages[2].message, HasSubstr("parity-eval.loss_ratio_to_baseline is 4, wanted <= 3"));
  EXPECT_THAT(act(state, Approve{"parity"}), ElementsAre("start stage1"));
  EXPECT_EQ(state.phase, PipelinePhase::kRunning);
  EXPECT_EQ(state.stages[2].gate_status, GateStatus::kApproved);
}

TEST(AdvanceTest, ARejectedGateEndsThePipeline) {
  PipelineState state = sample();
  act(state, Start{});
  act(state, StageSucceeded{"convert", {}});
  act(state, kBadParity);
  EXPECT_THAT(act(state, Reject{"parity"}), ElementsAre("finish FAILED"));
  EXPECT_THAT(state.reason, HasSubstr("gate 'parity' was rejected"));
}

TEST(AdvanceTest, WarnGoesOnAndFailEnds) {
  PipelineState state = sample("WARN");
  act(state, Start{});
  act(state, StageSucceeded{"convert", {}});
  EXPECT_THAT(act(state, kBadParity), ElementsAre("WARNED parity", "start stage1"));
  EXPECT_THAT(act(state, StageSucceeded{"stage1", {}}), ElementsAre("finish FAILED"));
  EXPECT_THAT(state.reason, HasSubstr("stage1.dead_expert_fraction was not measured"));
}

TEST(AdvanceTest, FailuresPermanentAndNot) {
  PipelineState state = sample();
  act(state, Start{});
  EXPECT_THAT(act(state, StageFailed{"convert", "lost a rank", false}), ElementsAre("start convert"));
  EXPECT_THAT(act(state, StageFailed{"convert", "no such model", true}), ElementsAre("finish FAILED"));
  EXPECT_EQ(state.reason, "stage 'convert' failed: no such model");
}

TEST(AdvanceTest, ARetriedStageRunsAgainAndThePipelineGoesOn) {
  PipelineState state = sample();
  act(state, Start{});
  act(state, StageFailed{"convert", "no such model", true});
  EXPECT_THAT(act(state, StageRetried{"convert"}), IsEmpty());  // the caller starts it
  EXPECT_EQ(state.phase, PipelinePhase::kRunning);
  EXPECT_EQ(state.reason, "");
  EXPECT_THROW(act(state, StageRetried{"convert"}), InvalidArgument);
  EXPECT_THAT(act(state, StageSucceeded{"convert", {}}), ElementsAre("start parity-eval"));
}

TEST(AdvanceTest, AStageCanceledBeforeItsTurnFailsThePipeline) {
  PipelineState state = sample();
  act(state, Start{});
  EXPECT_THAT(act(state, StageFailed{"evaluate", "canceled", true}), ElementsAre("finish FAILED"));
  EXPECT_THROW(act(state, StageFailed{"stage1", "lost a rank", false}), InvalidArgument);  // it does not run
  EXPECT_THAT(act(state, StageFailed{"convert", "too", true}), IsEmpty());                 // kept, and nothing follows
  EXPECT_THAT(act(state, StageRetried{"convert"}), IsEmpty());
  act(state, StageSucceeded{"convert", {}});
  act(state, kGoodParity);
  // What is left of the other failure ends it, once nothing works any more.
  EXPECT_THAT(act(state, StageSucceeded{"stage1", {{"dead_expert_fraction", 0.0}}}),
              ElementsAre("PASSED balance", "finish FAILED"));
  EXPECT_EQ(state.reason, "stage 'evaluate' failed: canceled");
}

TEST(AdvanceTest, PausedNothingStartsAndNoGateIsJudged) {
  PipelineState state = sample();
  act(state, Start{});
  act(state, StageSucceeded{"convert", {}});
  EXPECT_THAT(act(state, Pause{}), IsEmpty());
  EXPECT_THAT(act(state, kBadParity), IsEmpty());
  EXPECT_THAT(act(state, Resume{}), ElementsAre("hold parity"));
  act(state, Pause{});
  EXPECT_THAT(act(state, Approve{"parity"}), IsEmpty());
  EXPECT_EQ(state.phase, PipelinePhase::kPaused);
  EXPECT_THAT(act(state, Resume{}), ElementsAre("start stage1"));
}

TEST(AdvanceTest, ResumeReturnsToAHeldGate) {
  PipelineState state = sample();
  act(state, Start{});
  act(state, StageSucceeded{"convert", {}});
  act(state, kBadParity);
  act(state, Pause{});
  EXPECT_THAT(act(state, Resume{}), IsEmpty());
  EXPECT_EQ(state.phase, PipelinePhase::kHeld);
}

TEST(AdvanceTest, CancelEndsAndALateResultIsKept) {
  PipelineState state = sample();
  act(state, Start{});
  EXPECT_THAT(act(state, Cancel{}), ElementsAre("finish CANCELED"));
  EXPECT_THAT(act(state, StageSucceeded{"convert", {{"mean_scale", 1.0}}}), IsEmpty());
  EXPECT_EQ(state.phase, PipelinePhase::kCanceled);
  EXPECT_EQ(state.stages[0].status, StageStatus::kSucceeded);
}

TEST(AdvanceTest, EventsThatMakeNoSenseSayWhyAndChangeNothing) {
  const auto refusal = [](PipelineState& state, const Event& event) {
    return testing::message_of([&] { advance(state, event); });
  };
  PipelineState state = sample();
  EXPECT_EQ(refusal(state, Pause{}),
            "cannot pause the pipeline in state RUNNING: only a RUNNING or HELD pipeline can be paused");
  act(state, Start{});
  EXPECT_EQ(refusal(state, Start{}), "cannot start the pipeline in state RUNNING: it has been started already");
  EXPECT_EQ(refusal(state, Resume{}), "cannot resume the pipeline in state RUNNING: it is not PAUSED");
  EXPECT_EQ(refusal(state, StageSucceeded{"stage1", {}}), "stage 'stage1' cannot complete: it is PENDING");
  EXPECT_EQ(refusal(state, StageSucceeded{"stage9", {}}),
            "no stage 'stage9' in this pipeline; stages: convert, parity-eval, stage1, evaluate");
  EXPECT_EQ(refusal(state, Approve{"quality"}), "cannot approve gate 'quality': no such gate; gates: parity, balance");
  EXPECT_EQ(refusal(state, Approve{"parity"}),
            "cannot approve gate 'parity': it does not hold the pipeline (gate PENDING, pipeline RUNNING)");
  EXPECT_EQ(state.stages[0].status, StageStatus::kReady);
  act(state, Cancel{});
  EXPECT_EQ(refusal(state, Cancel{}), "cannot cancel the pipeline in state CANCELED: it has ended");
}

}  // namespace
}  // namespace moe
