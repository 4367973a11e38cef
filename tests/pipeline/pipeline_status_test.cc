#include "pipeline/pipeline_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <iostream>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// Everything that a state holds, metrics to the bit (NaN included), as text to compare.
std::string text_of(const PipelineState& state) {
  std::string text = concat(to_string(state.phase), " ", state.is_started, " [", state.reason, "]\n");
  for (const StageState& stage : state.stages) {
    text +=
        concat(stage.name, " ", to_string(stage.status), " ", to_string(stage.gate_status), " [", stage.message, "]");
    if (stage.gate) text += concat(" gate ", stage.gate->SerializeAsString());
    for (const std::string& need : stage.needs) text += concat(" needs ", need);
    for (const auto& [name, value] : stage.metrics) text += concat(" ", name, "=", std::bit_cast<uint64_t>(value));
    text += "\n";
  }
  return text;
}

// Through bytes, as a database keeps it.
PipelineState round_trip(const PipelineState& state, const v1::PipelineSpec& spec) {
  v1::Pipeline written;
  *written.mutable_spec() = spec;
  to_proto(state, written);
  v1::Pipeline read;
  EXPECT_TRUE(read.ParseFromString(written.SerializeAsString()));
  return from_proto(read);
}

void add_gate(v1::PipelineSpec& spec, const std::string& name, const std::string& metric, const std::string& on_fail) {
  v1::GateSpec& gate = *spec.add_stages()->mutable_gate();
  gate.set_name(name);
  gate.set_metric(metric);
  gate.set_op("<=");
  gate.set_value(1);
  gate.set_on_fail(on_fail);
}

// convert, then up to four times: train, evaluate, a gate.
v1::PipelineSpec random_spec(CounterRng& rng) {
  v1::PipelineSpec spec;
  spec.set_name("walk");
  spec.add_stages()->set_name("convert");
  spec.mutable_stages(0)->mutable_convert()->set_input("./dense");
  std::string model = "convert.model";
  const auto rounds = rng.below(5);
  for (uint64_t round = 0; round < rounds; ++round) {
    const std::string train = concat("train", round), evaluate = concat("evaluate", round);
    v1::Stage& training = *spec.add_stages();
    training.set_name(train);
    training.mutable_train()->set_input(model);
    model = train + ".model";
    v1::Stage& evaluation = *spec.add_stages();
    evaluation.set_name(evaluate);
    evaluation.mutable_evaluate()->set_input(model);
    const std::string on_fail = std::vector<std::string>{"HOLD", "HOLD", "HOLD", "WARN", "FAIL"}[rng.below(5)];
    add_gate(spec, concat("gate", round), evaluate + ".loss", on_fail);
  }
  return spec;
}

Event random_event(const PipelineState& state, CounterRng& rng) {
  const StageState& stage = state.stages[rng.below(state.stages.size())];
  const auto kind = rng.below(40);
  if (stage.gate) {
    if (kind < 16) return Approve{stage.name};
    if (kind < 18) return Reject{stage.name};
  } else if (kind < 10) {
    return StageStarted{stage.name};
  } else if (kind < 26) {
    const std::vector<double> values{0.25, -0.0, 3.5, 1e300, 5e-324, std::nan(""), HUGE_VAL};
    return StageSucceeded{stage.name, {{"loss", values[rng.below(values.size())]}, {"loss.böse", 1}}, kind > 20};
  } else if (kind < 29) {
    return StageFailed{stage.name, "rank 1 was lost\n\"disk\" voll", kind == 28 && rng.below(4) == 0};
  }
  if (kind < 34) return Pause{};
  if (kind < 37) return Resume{};
  if (kind == 37 && rng.below(8) == 0) return Cancel{};
  return Start{};
}

// Each state is compared with its round trip, and the walk goes on from the round trip.
TEST(PipelineStatusTest, RoundTripIsExactOnEveryStateOf20000Events) {
  constexpr uint64_t kSeed = 20261124;
  constexpr int kEvents = 20000;
  CounterRng rng(kSeed, kStreamTest);
  int applied = 0, walks = 0, differences = 0;
  std::set<std::string> seen;
  for (int events = 0; events < kEvents; ++walks) {
    const v1::PipelineSpec spec = random_spec(rng);
    PipelineState state = make_pipeline_state(spec);
    for (int n = 0, past_end = 0; n < 150 && past_end < 4 && events < kEvents; ++n, ++events) {
      try {
        advance(state, random_event(state, rng));
        ++applied;
      } catch (const InvalidArgument&) {
        // Makes no sense now; the state is untouched.
      }
      const PipelineState back = round_trip(state, spec);
      if (text_of(back) != text_of(state)) {
        ++differences;
        ADD_FAILURE() << "was\n" << text_of(state) << "is\n" << text_of(back);
      }
      seen.insert(concat("phase ", to_string(state.phase)));
      for (const StageState& stage : state.stages) {
        seen.insert(stage.gate ? concat("gate ", to_string(stage.gate_status))
                               : concat("stage ", to_string(stage.status)));
      }
      past_end += is_terminal(state.phase) ? 1 : 0;
      state = back;
    }
  }
  std::cout << "seed " << kSeed << ": " << kEvents << " events (" << applied << " applied) in " << walks << " walks, "
            << seen.size() << " of 18 words seen, " << differences << " differences\n";
  EXPECT_EQ(seen.size(), 18u) << "six phases, six stage and six gate statuses";
}

v1::Pipeline stored_pipeline() {
  v1::Pipeline pipeline;
  pipeline.set_id("p-1");
  v1::PipelineSpec& spec = *pipeline.mutable_spec();
  spec.add_stages()->set_name("evaluate");
  spec.mutable_stages(0)->mutable_evaluate()->set_input("./dense");
  add_gate(spec, "quality", "evaluate.loss", "HOLD");
  to_proto(make_pipeline_state(spec), pipeline);
  return pipeline;
}

TEST(PipelineStatusTest, ToProtoLeavesWhatItDoesNotOwn) {
  v1::Pipeline pipeline = stored_pipeline();
  pipeline.set_user("ada");
  pipeline.mutable_stages(0)->set_job_id("p-1-evaluate");
  pipeline.mutable_stages(1)->set_decided_by("ada: fine");
  PipelineState state = from_proto(pipeline);
  advance(state, Start{});
  advance(state, StageSucceeded{"evaluate", {{"loss", 2}}});
  to_proto(state, pipeline);
  EXPECT_EQ(pipeline.phase(), "HELD");
  EXPECT_EQ(pipeline.user(), "ada");
  EXPECT_EQ(pipeline.id(), "p-1");
  ASSERT_EQ(pipeline.stages_size(), 2);
  EXPECT_EQ(pipeline.stages(0).status(), "SUCCEEDED");
  EXPECT_EQ(pipeline.stages(0).job_id(), "p-1-evaluate");
  EXPECT_EQ(pipeline.stages(0).metrics().at("loss"), 2);
  EXPECT_EQ(pipeline.stages(1).status(), "HELD");
  EXPECT_TRUE(pipeline.stages(1).is_gate());
  EXPECT_EQ(pipeline.stages(1).decided_by(), "ada: fine");
  EXPECT_THAT(pipeline.stages(1).message(), HasSubstr("evaluate.loss"));
  // Metrics of an attempt before do not linger.
  state.stages[0].metrics = {{"perplexity", 7}};
  to_proto(state, pipeline);
  EXPECT_EQ(pipeline.stages(0).metrics().size(), 1u);
}

TEST(PipelineStatusTest, ToProtoOverAnotherPipelinesStages) {
  v1::Pipeline pipeline = stored_pipeline();
  pipeline.mutable_stages(0)->set_job_id("old");
  v1::StageState& surplus = *pipeline.add_stages();
  surplus.set_name("surplus");
  v1::PipelineSpec spec;
  spec.add_stages()->set_name("convert");
  spec.mutable_stages(0)->mutable_convert()->set_input("./dense");
  to_proto(make_pipeline_state(spec), pipeline);
  ASSERT_EQ(pipeline.stages_size(), 1);
  EXPECT_EQ(pipeline.stages(0).name(), "convert");
  EXPECT_EQ(pipeline.stages(0).job_id(), "");
}

TEST(PipelineStatusTest, DamagedStatesAreRefusedByName) {
  const auto read = [](const auto& damage) {
    v1::Pipeline pipeline = stored_pipeline();
    damage(pipeline);
    return [pipeline] { from_proto(pipeline); };
  };
  EXPECT_THAT(
      read([](v1::Pipeline& p) { p.set_phase("DONE"); }),
      ThrowsMessage<Corruption>(HasSubstr("phase of pipeline 'p-1' is 'DONE', which is none of RUNNING, HELD")));
  EXPECT_THAT(read([](v1::Pipeline& p) { p.mutable_stages(0)->set_status("HELD"); }),
              ThrowsMessage<Corruption>(HasSubstr("status of 'evaluate' in pipeline 'p-1' is 'HELD'")));
  EXPECT_THAT(read([](v1::Pipeline& p) { p.mutable_stages(1)->set_status("SUCCEEDED"); }),
              ThrowsMessage<Corruption>(HasSubstr("none of PENDING, PASSED, WARNED, HELD, APPROVED, FAILED")));
  EXPECT_THAT(read([](v1::Pipeline& p) { p.mutable_stages()->RemoveLast(); }),
              ThrowsMessage<Corruption>(HasSubstr("the state of 1 stages, but its spec has 2")));
  EXPECT_THAT(read([](v1::Pipeline& p) { p.mutable_stages(0)->set_name("train"); }),
              ThrowsMessage<Corruption>(HasSubstr("is stage 'train' in its state, but stage 'evaluate' in its spec")));
  EXPECT_THAT(read([](v1::Pipeline& p) { p.mutable_stages(1)->set_is_gate(false); }),
              ThrowsMessage<Corruption>(HasSubstr("is stage 'quality' in its state, but gate 'quality' in its spec")));
}

TEST(PipelineStatusTest, APipelineIsPausedWhenOnlyItsJobsAre) {
  constexpr v1::JobState kBlocked = v1::JOB_STATE_BLOCKED, kPaused = v1::JOB_STATE_PAUSED;
  PipelineState state;
  EXPECT_TRUE(only_jobs_pause(state, {kPaused}));
  EXPECT_TRUE(only_jobs_pause(state, {v1::JOB_STATE_SUCCEEDED, kPaused, kBlocked, kPaused}));
  EXPECT_FALSE(only_jobs_pause(state, {kBlocked}));
  for (const v1::JobState moves :
       {v1::JOB_STATE_QUEUED, v1::JOB_STATE_ASSIGNED, v1::JOB_STATE_RUNNING, v1::JOB_STATE_STOPPING}) {
    EXPECT_FALSE(only_jobs_pause(state, {kPaused, moves})) << moves;
  }
  // What the engine says otherwise stands.
  for (const PipelinePhase phase : {PipelinePhase::kHeld, PipelinePhase::kPaused, PipelinePhase::kFailed}) {
    state.phase = phase;
    EXPECT_FALSE(only_jobs_pause(state, {kPaused})) << to_string(phase);
  }
}

TEST(PipelineStatusTest, PausedJobsAreShownAndTakenBack) {
  v1::Pipeline pipeline;
  pipeline.mutable_spec()->add_stages()->set_name("convert");
  pipeline.mutable_spec()->mutable_stages(0)->mutable_convert()->set_input("./dense");
  PipelineState state = make_pipeline_state(pipeline.spec());
  advance(state, Start{});
  to_proto(state, pipeline);
  show_paused_jobs(state, {v1::JOB_STATE_PAUSED}, pipeline);
  EXPECT_EQ(pipeline.phase(), "PAUSED");
  EXPECT_EQ(text_of(from_proto(pipeline)), text_of(state)) << "the engine runs";
  to_proto(state, pipeline);
  show_paused_jobs(state, {v1::JOB_STATE_QUEUED}, pipeline);
  EXPECT_EQ(pipeline.phase(), "RUNNING");
  EXPECT_FALSE(pipeline.only_jobs_paused());
  // A pipeline that was itself paused stays so.
  advance(state, Pause{});
  to_proto(state, pipeline);
  show_paused_jobs(state, {v1::JOB_STATE_PAUSED}, pipeline);
  EXPECT_EQ(from_proto(pipeline).phase, PipelinePhase::kPaused);
}

}  // namespace
}  // namespace moe
