#include "report/sample_status.h"

#include <google/protobuf/message.h>

#include <cmath>
#include <limits>

#include "common/error.h"
#include "common/rng.h"

namespace moe::testing {
namespace {

constexpr int64_t kNow = 1'796'126'400;

void add_stage(v1::Pipeline& pipeline, const std::string& name, const std::string& status, v1::JobState job_state,
               const std::string& message = "") {
  v1::StageState& stage = *pipeline.add_stages();
  stage.set_name(name);
  stage.set_status(status);
  stage.set_message(message);
  stage.set_job_id(pipeline.id() + "-" + name);
  stage.set_job_state(job_state);
}

void add_gate(v1::Pipeline& pipeline, const std::string& name, const std::string& status,
              const std::string& message = "") {
  v1::StageState& gate = *pipeline.add_stages();
  gate.set_name(name);
  gate.set_is_gate(true);
  gate.set_status(status);
  gate.set_message(message);
}

v1::Pipeline pipeline(const std::string& name, const std::string& id, const std::string& phase, int64_t age) {
  v1::Pipeline made;
  made.set_id(id);
  made.set_name(name);
  made.set_phase(phase);
  made.set_user("ada");
  made.set_is_started(true);
  made.mutable_created()->set_seconds(kNow - age);
  return made;
}

v1::Job job(const std::string& pipeline, const std::string& stage, const std::string& kind, v1::JobState state) {
  v1::Job made;
  made.set_id(pipeline + "-" + stage);
  made.set_pipeline_id(pipeline);
  made.set_kind(kind);
  made.set_state(state);
  made.set_attempt(1);
  return made;
}

v1::Job training() {
  v1::Job made = job("quickstart-7f3k2m9a", "stage1", "train", v1::JOB_STATE_RUNNING);
  made.set_attempt(2);
  made.set_failures(1);
  made.set_message("rank 1 was lost (signal 9)");
  made.set_gang_id("3f2a9c1e77b04d12");
  made.mutable_started()->set_seconds(kNow - 220);
  v1::Progress& progress = *made.mutable_progress();
  progress.set_phase("training");
  progress.set_step(120);
  progress.set_target(220);
  progress.set_unit("step");
  progress.set_loss(2.876);
  progress.set_tokens_per_second(5321.4);
  v1::Checkpoint& checkpoint = *made.add_checkpoints();
  checkpoint.set_step(100);
  CounterRng rng(21, kStreamTest);
  for (int layer = 0; layer < 6; ++layer) {
    v1::LayerLoad& load = *made.add_expert_load();
    for (int expert = 0; expert < 8; ++expert)
      load.add_tokens(static_cast<int64_t>(1000 * std::exp(0.4 * rng.normal())));
    v1::LayerLoad& attention = *made.add_attention_expert_load();
    for (int expert = 0; expert < 4; ++expert) attention.add_tokens(1000 + 100 * expert);
  }
  return made;
}

v1::Gang gang(const std::string& id, int ranks, const std::string& state, const std::string& job_id) {
  v1::Gang made;
  made.set_id(id);
  made.set_device("cpu");
  made.set_version("1.0.0");
  made.set_state(state);
  made.set_job_id(job_id);
  made.mutable_last_heard()->set_seconds(kNow - 2);
  for (int rank = 0; rank < ranks; ++rank) {
    v1::GangRank& entry = *made.add_ranks();
    entry.set_rank(rank);
    entry.set_node(rank < 2 ? "node-a" : "node-b");
  }
  return made;
}

// Sets every text of the message and of all messages inside it.
void poison(google::protobuf::Message& message, const std::string& evil) {
  const auto& reflection = *message.GetReflection();
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const auto* field = descriptor.field(i);
    using Field = google::protobuf::FieldDescriptor;
    const std::string& name = field->name();
    // Words from our own lists decide what is drawn; ids must stay to find each other.
    const bool is_word =
        name == "status" || name == "phase" || name == "job_id" || name == "id" || name == "pipeline_id";
    if (field->is_map()) continue;
    if (field->cpp_type() == Field::CPPTYPE_STRING && !field->is_repeated() && !is_word) {
      reflection.SetString(&message, field, evil);
    } else if (field->cpp_type() == Field::CPPTYPE_MESSAGE && field->is_repeated()) {
      for (int item = 0; item < reflection.FieldSize(message, field); ++item) {
        poison(*reflection.MutableRepeatedMessage(&message, field, item), evil);
      }
    } else if (field->cpp_type() == Field::CPPTYPE_MESSAGE && reflection.HasField(message, field)) {
      poison(*reflection.MutableMessage(&message, field), evil);
    }
  }
}

}  // namespace

StatusPage sample_status() {
  StatusPage page;
  page.version = "1.0.0";
  page.now = "2026-12-01 12:00:00 UTC";

  v1::Pipeline running = pipeline("quickstart", "quickstart-7f3k2m9a", "RUNNING", 600);
  add_stage(running, "convert", "SUCCEEDED", v1::JOB_STATE_SUCCEEDED);
  add_stage(running, "evaluate-converted", "RUNNING", v1::JOB_STATE_RUNNING);
  add_stage(running, "stage1", "RUNNING", v1::JOB_STATE_RUNNING);
  add_stage(running, "evaluate-stage1", "READY", v1::JOB_STATE_QUEUED);
  add_gate(running, "recovered", "PENDING");
  add_stage(running, "stage2", "PENDING", v1::JOB_STATE_BLOCKED);

  v1::Pipeline held = pipeline("tomoe-8-experts", "tomoe-8-experts-q2w8", "HELD", 7200);
  add_stage(held, "convert", "SKIPPED", v1::JOB_STATE_SUCCEEDED);
  add_stage(held, "evaluate", "SUCCEEDED", v1::JOB_STATE_SUCCEEDED);
  add_gate(held, "balance", "PASSED", "gate 'balance' passes: evaluate.load_max is 1.31, wanted <= 2");
  add_gate(held, "recovered", "HELD",
           "gate 'recovered' fails: evaluate.loss_ratio_to_baseline is 1.41, wanted <= 1.25");
  add_stage(held, "stage2", "PENDING", v1::JOB_STATE_BLOCKED);

  v1::Pipeline failed =
      pipeline("a-name-of-sixty-characters-as-long-as-names-can-be-0123456789ab", "a-name-of-0p3d", "FAILED", 9000);
  failed.set_reason("stage 'stage1' failed: data file 'corpus/maths.jsonl' has no documents");
  failed.mutable_finished()->set_seconds(kNow - 8000);
  add_stage(failed, "convert", "SUCCEEDED", v1::JOB_STATE_SUCCEEDED);
  add_gate(failed, "damage", "WARNED",
           "gate 'damage' fails: convert.mean_scale is 3.1, wanted <= 3; on_fail is WARN, so the pipeline goes on");
  add_stage(failed, "stage1", "FAILED", v1::JOB_STATE_FAILED, "data file 'corpus/maths.jsonl' has no documents");

  v1::Pipeline paused = pipeline("nightly", "nightly-5c5c", "PAUSED", 86400);
  add_stage(paused, "convert", "SUCCEEDED", v1::JOB_STATE_SUCCEEDED);
  add_gate(paused, "quality", "APPROVED", "gate 'quality' fails: convert.mean_scale is 3.1, wanted <= 3");
  paused.mutable_stages(1)->set_decided_by("ada: known and fine");
  add_stage(paused, "stage1", "PENDING", v1::JOB_STATE_PAUSED);

  v1::Pipeline done = pipeline("done", "done-11aa", "SUCCEEDED", 90000);
  done.set_reason("every stage is done");
  add_stage(done, "convert", "SUCCEEDED", v1::JOB_STATE_SUCCEEDED);
  page.pipelines = {running, held, paused, failed, done};
  page.living_pipelines = {{"HELD", 1}, {"PAUSED", 1}, {"RUNNING", 1}};
  page.living_jobs = {{"BLOCKED", 3}, {"PAUSED", 1}, {"QUEUED", 1}, {"RUNNING", 2}};
  page.ended_pipelines = 2;

  v1::Job evaluation = job(running.id(), "evaluate-converted", "evaluate", v1::JOB_STATE_RUNNING);
  evaluation.mutable_progress()->set_phase("evaluating");
  evaluation.mutable_progress()->set_step(12);
  evaluation.mutable_progress()->set_target(48);
  evaluation.mutable_progress()->set_unit("row");
  evaluation.set_gang_id("77aa0000bbbb1111");
  v1::Job queued = job(running.id(), "evaluate-stage1", "evaluate", v1::JOB_STATE_QUEUED);
  queued.set_pending_explanation("needs 4 ranks; the largest idle gang has 2");
  page.jobs = {training(), evaluation, queued};

  CounterRng rng(22, kStreamTest);
  for (int step = 1; step <= 120; ++step) {
    page.loss["quickstart-7f3k2m9a-stage1"].emplace_back(step,
                                                         2.7 + 2.1 * std::exp(-step / 40.0) + 0.08 * rng.normal());
  }
  page.gangs = {gang("3f2a9c1e77b04d12", 4, "busy", "quickstart-7f3k2m9a-stage1"),
                gang("77aa0000bbbb1111", 1, "idle", ""), gang("0123456789abcdef", 2, "lost", "")};
  return page;
}

StatusPage hostile_status() {
  const std::string evil = "<script>alert('x')</script> \"quoted\" & \n\x01 \xff\xc3 ]]> ü 漢字";
  StatusPage page = sample_status();
  page.version = page.now = evil;
  for (v1::Pipeline& entry : page.pipelines) poison(entry, evil);
  for (v1::Job& entry : page.jobs) poison(entry, evil);
  for (v1::Gang& entry : page.gangs) poison(entry, evil);
  page.pipelines[0].set_id(evil);
  page.pipelines[1].set_id(evil);
  page.pipelines[3].set_phase(evil);
  page.pipelines[2].mutable_stages(0)->set_status(evil);
  page.jobs[1].set_id(evil);
  page.jobs[1].mutable_progress()->set_step(-5);
  page.jobs[0].mutable_progress()->set_step(std::numeric_limits<int64_t>::max());
  page.jobs[0].mutable_progress()->set_loss(std::numeric_limits<double>::quiet_NaN());
  page.jobs[0].mutable_progress()->set_tokens_per_second(std::numeric_limits<double>::infinity());
  page.jobs[0].mutable_started()->set_seconds(std::numeric_limits<int64_t>::max());
  page.jobs[0].mutable_expert_load(0)->clear_tokens();
  page.jobs[0].mutable_expert_load(1)->set_tokens(0, -7);
  page.loss["quickstart-7f3k2m9a-stage1"][3].second = std::numeric_limits<double>::quiet_NaN();
  page.gangs[0].set_id(evil);
  page.gangs[0].set_job_id(evil);
  return page;
}

}  // namespace moe::testing
