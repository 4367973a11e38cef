#include "coordinator/coordinator_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <future>

#include "common/error.h"
#include "common/file_io.h"
#include "coordinator/metric_labels.h"

namespace moe::testing {
namespace {

namespace fs = std::filesystem;

std::string numbered(const char* format, long long number) {
  char text[64];
  std::snprintf(text, sizeof text, format, number);
  return text;
}

}  // namespace

v1::PipelineSpec spec_of(const std::string& yaml) {
  return load_pipeline_or_throw(yaml, "test.yaml", {}, {});
}

v1::PipelineSpec one_stage(const std::string& name, int ranks) {
  return spec_of(concat("apiVersion: moe/v1\nkind: Pipeline\nname: ", name,
                        "\nstages:\n  - {name: work, gang: {ranks: ", ranks,
                        "}, evaluate: {input: ./dense, data: [{path: v.jsonl}]}}\n"));
}

v1::PipelineSpec chain(const std::string& name) {
  return spec_of(concat("apiVersion: moe/v1\nkind: Pipeline\nname: ", name, R"(
inputs: {dense: {path: ./dense}}
defaults: {gang: {ranks: 1}}
stages:
  - {name: convert, convert: {input: dense, ffn: {method: m, experts: 8, top_k: 2}, calibration: {data: [{path: c.jsonl}]}}}
  - {name: parity-eval, evaluate: {input: convert.model, baseline: dense, data: [{path: v.jsonl}]}}
  - gate: {name: parity, metric: parity-eval.loss_ratio_to_baseline, op: "<=", value: 3, on_fail: HOLD}
  - {name: stage1, train: {input: convert.model, steps: 10, data: [{path: a.jsonl}]}}
  - {name: evaluate, evaluate: {input: stage1.model, data: [{path: v.jsonl}]}}
)"));
}

v1::PipelineSpec fork(const std::string& name) {
  return spec_of(concat("apiVersion: moe/v1\nkind: Pipeline\nname: ", name, R"(
inputs: {dense: {path: ./dense}}
defaults: {gang: {ranks: 1}}
stages:
  - {name: a, train: {input: dense, steps: 10, data: [{path: a.jsonl}]}}
  - {name: b, train: {input: dense, steps: 10, data: [{path: b.jsonl}]}}
  - {name: c, evaluate: {input: a.model, data: [{path: v.jsonl}]}}
)"));
}

CoordinatorFixture::CoordinatorFixture(std::chrono::milliseconds lease) {
  options_.data_root = folder_.path();
  options_.root_id = kRootId;
  options_.lease = lease;
  start();
}

void CoordinatorFixture::start() {
  store_ = std::make_unique<Store>(folder_ / "moe.db");
  coordinator_ = std::make_unique<Coordinator>(
      options_, clock_, *store_,
      CoordinatorObserver{
          .lease_expired =
              [this](const std::string& reason) {
                ++observed_.expired[reason];
                const std::vector<std::string> known = metric_labels().expiry_reasons;
                EXPECT_NE(std::find(known.begin(), known.end(), reason), known.end())
                    << reason << " is not counted from 0";
              },
          .fenced = [this] { ++observed_.fenced; },
          .restarted =
              [this](const std::string&, const std::string& reason) {
                ++observed_.restarted[reason];
                const std::vector<std::string> known = metric_labels().restart_reasons;
                EXPECT_NE(std::find(known.begin(), known.end(), reason), known.end())
                    << reason << " is not counted from 0";
              },
          .finished = [this](const std::string&, const std::string& outcome) { ++observed_.finished[outcome]; },
          .changed = [this] { on_change(); }});
}

void CoordinatorFixture::restart() {
  coordinator_.reset();
  store_.reset();
  start();
}

void CoordinatorFixture::pass(std::chrono::milliseconds time) {
  constexpr std::chrono::milliseconds kStep{500};
  while (time.count() > 0) {
    clock_.advance(std::min(time, kStep));
    coordinator_->tick();
    time -= kStep;
  }
}

void CoordinatorFixture::wait_until_durable() {
  std::promise<void> durable;
  store_->after_commit([&] { durable.set_value(); });
  durable.get_future().wait();
}

std::string CoordinatorFixture::new_request_id() {
  return concat("request-", ++requests_);
}

v1::SubmitRequest CoordinatorFixture::submit_request(const v1::PipelineSpec& spec) {
  v1::SubmitRequest request;
  request.set_request_id(new_request_id());
  request.set_user("ada");
  *request.mutable_spec() = spec;
  return request;
}

std::string CoordinatorFixture::submit(const v1::PipelineSpec& spec) {
  const auto response = coordinator_->submit(submit_request(spec));
  if (!response.ok()) throw InvalidArgument(concat("submit: ", response.status().ToString()));
  return response->pipeline_id();
}

v1::ControlRequest CoordinatorFixture::control(const std::string& id, const std::string& comment) {
  v1::ControlRequest request;
  request.set_request_id(new_request_id());
  request.set_id(id);
  request.set_user("ada");
  request.set_comment(comment);
  return request;
}

v1::Pipeline CoordinatorFixture::pipeline(const std::string& id) {
  v1::GetRequest request;
  request.set_id(id);
  return coordinator_->get_pipeline(request).value();
}

v1::Job CoordinatorFixture::job(const std::string& id) {
  v1::GetRequest request;
  request.set_id(id);
  return coordinator_->get_job(request).value();
}

std::string CoordinatorFixture::state(const std::string& job_id) {
  return state_name(job(job_id).state());
}

std::string CoordinatorFixture::story(const std::string& pipeline_id) {
  const v1::Pipeline shown = pipeline(pipeline_id);
  std::string text = shown.phase();
  for (int i = 0; i < shown.stages_size(); ++i) {
    const v1::StageState& stage = shown.stages(i);
    text += concat(i == 0 ? ": " : ", ", stage.name(), " ",
                   stage.is_gate() ? stage.status() : state_name(stage.job_state()));
  }
  return text;
}

absl::StatusOr<v1::ControlResponse> CoordinatorFixture::decide(const std::string& pipeline_id, bool approve,
                                                               const std::string& gate) {
  v1::DecideGateRequest request;
  request.set_request_id(new_request_id());
  request.set_pipeline_id(pipeline_id);
  request.set_gate(gate);
  request.set_approve(approve);
  request.set_user("ada");
  request.set_comment("looked at it");
  return coordinator_->decide_gate(request);
}

void CoordinatorFixture::register_gang(const std::string& id, int ranks, const std::string& launcher,
                                       std::optional<int> previous_exit_code) {
  v1::RegisterGangRequest request;
  request.set_root_id(kRootId);
  if (previous_exit_code) request.mutable_gang()->set_previous_exit_code(*previous_exit_code);
  request.mutable_gang()->set_id(id);
  request.mutable_gang()->set_launcher_id(launcher);
  request.mutable_gang()->set_device("cpu");
  for (int rank = 0; rank < ranks; ++rank) request.mutable_gang()->add_ranks()->set_rank(rank);
  const auto response = coordinator_->register_gang(request);
  if (!response.ok()) throw InvalidArgument(concat("register: ", response.status().ToString()));
}

absl::Status CoordinatorFixture::deregister_gang(const std::string& id, const std::string& reason) {
  v1::DeregisterGangRequest request;
  request.set_gang_id(id);
  request.set_reason(reason);
  return coordinator_->deregister_gang(request).status();
}

std::optional<v1::Lease> CoordinatorFixture::acquire(const std::string& gang) {
  v1::AcquireLeaseRequest request;
  request.set_gang_id(gang);
  const auto response = coordinator_->acquire_lease(request);
  if (!response.ok() || !response->has_lease()) return std::nullopt;
  return response->lease();
}

v1::Lease CoordinatorFixture::must_acquire(const std::string& gang) {
  const std::optional<v1::Lease> lease = acquire(gang);
  if (!lease) throw InvalidArgument(concat("gang ", gang, " got no lease"));
  return *lease;
}

void CoordinatorFixture::run_chain_to_its_gate(const std::string& gang) {
  EXPECT_TRUE(complete(gang, must_acquire(gang)).ok());
  EXPECT_TRUE(complete(gang, must_acquire(gang), v1::ATTEMPT_OUTCOME_SUCCEEDED, {{"loss_ratio_to_baseline", 9}}).ok());
}

absl::StatusOr<v1::HeartbeatResponse> CoordinatorFixture::heartbeat(const std::string& gang, const v1::Lease& lease,
                                                                    const std::string& phase, int64_t step) {
  v1::HeartbeatRequest request;
  request.set_gang_id(gang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  request.mutable_progress()->set_phase(phase);
  request.mutable_progress()->set_step(step);
  return coordinator_->heartbeat(request);
}

absl::Status CoordinatorFixture::report(const std::string& gang, const v1::Lease& lease,
                                        const std::vector<int64_t>& steps) {
  v1::ReportMetricsRequest request;
  request.set_gang_id(gang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  for (const int64_t step : steps) {
    v1::MetricPoint& point = *request.add_points();
    point.set_step(step);
    (*point.mutable_values())["loss"] = 10.0 / static_cast<double>(step + 1);
  }
  return coordinator_->report_metrics(request).status();
}

v1::CommitCheckpointRequest CoordinatorFixture::commit_request(const std::string& gang, const v1::Lease& lease,
                                                               int64_t step) {
  v1::CommitCheckpointRequest request;
  request.set_gang_id(gang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  const std::string path =
      concat(lease.job_id(), "/checkpoints/s", numbered("%08lld", step), numbered("-t%04lld", lease.attempt()));
  const std::string manifest = concat("{\"step\": ", step, ", \"attempt\": ", lease.attempt(), "}");
  fs::create_directories(root() / path);
  std::ofstream(root() / path / "MANIFEST.json") << manifest;
  request.mutable_checkpoint()->set_step(step);
  request.mutable_checkpoint()->set_path(path);
  request.mutable_checkpoint()->set_digest(xxh3_hex(std::string_view(manifest)));
  return request;
}

absl::Status CoordinatorFixture::commit(const std::string& gang, const v1::Lease& lease, int64_t step) {
  return coordinator_->commit_checkpoint(commit_request(gang, lease, step)).status();
}

v1::CompleteAttemptRequest CoordinatorFixture::complete_request(const std::string& gang, const v1::Lease& lease,
                                                                v1::AttemptOutcome outcome) {
  v1::CompleteAttemptRequest request;
  request.set_gang_id(gang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  request.set_outcome(outcome);
  if (outcome != v1::ATTEMPT_OUTCOME_SUCCEEDED) return request;
  const std::string path = lease.job_id() + numbered("/output-t%04lld", lease.attempt());
  fs::create_directories(root() / path);
  std::ofstream(root() / path / "STAGE.json") << "{}";
  request.set_output_path(path);
  request.set_output_digest("d" + path);
  return request;
}

absl::Status CoordinatorFixture::complete(const std::string& gang, const v1::Lease& lease, v1::AttemptOutcome outcome,
                                          const std::map<std::string, double>& metrics, const std::string& message,
                                          int exit_code) {
  v1::CompleteAttemptRequest request = complete_request(gang, lease, outcome);
  request.mutable_metrics()->insert(metrics.begin(), metrics.end());
  request.set_message(message);
  request.set_exit_code(exit_code);
  return coordinator_->complete_attempt(request).status();
}

std::map<std::string, std::string> CoordinatorFixture::snapshot_of(Coordinator& coordinator) {
  std::map<std::string, std::string> all;
  Coordinator::View view = coordinator.view(1'000'000);
  for (const v1::Pipeline& pipeline : view.pipelines) all["pipeline " + pipeline.id()] = pipeline.DebugString();
  for (v1::Job& job : view.jobs) {
    job.clear_progress();  // heartbeats stay in memory
    job.clear_pending_explanation();
    job.clear_expert_load();
    job.clear_attention_expert_load();
    all["job " + job.id()] = job.DebugString();
  }
  for (v1::Gang& gang : view.gangs) {
    gang.clear_last_heard();
    gang.clear_state();
    all["gang " + gang.id()] = gang.DebugString();
  }
  for (const auto& [job, loss] : view.loss) {
    for (const auto& [step, value] : loss) all["loss " + job] += concat(step, " ", value, "\n");
  }
  v1::ListRequest list;
  list.set_page_size(500);
  const auto found_artifacts = coordinator.list_artifacts(list);
  for (const v1::Artifact& artifact : found_artifacts->artifacts())
    all["artifact " + artifact.id()] = artifact.DebugString();
  v1::WatchRequest watch;
  for (int64_t before = -1; before != watch.after_revision();) {
    before = watch.after_revision();
    const v1::WatchResponse page = coordinator.watch(watch).value();
    for (const v1::Event& event : page.events()) all[concat("event ", event.revision())] = event.DebugString();
    watch.set_after_revision(page.revision());
  }
  const v1::ServerInfo info = coordinator.server_info();
  all["counts"] = concat(info.queued_jobs(), " queued, ", info.running_jobs(), " leased");
  return all;
}

void CoordinatorFixture::copy_store(const TempDir& folder) {
  wait_until_durable();
  for (const char* name : {"moe.db", "moe.db-wal"})
    std::ofstream(folder / name, std::ios::binary) << read_file(folder_ / name);
}

std::map<std::string, std::string> CoordinatorFixture::stored_states() {
  const TempDir copy;
  copy_store(copy);
  Store store(copy / "moe.db");
  std::map<std::string, std::string> states;
  const StoredState stored = store.load();
  for (const v1::Job& job : stored.jobs) states[job.id()] = state_name(job.state());
  return states;
}

std::set<std::string> CoordinatorFixture::stored_faults() {
  const TempDir copy;
  copy_store(copy);
  Store store(copy / "moe.db");
  std::set<std::string> launchers;
  const StoredState stored = store.load();
  for (const v1::GangFaults& faults : stored.gang_faults) launchers.insert(faults.launcher_id());
  return launchers;
}

std::map<std::string, std::string> CoordinatorFixture::snapshot_of_fresh_load() {
  const TempDir copy;
  copy_store(copy);
  Store store(copy / "moe.db");
  Coordinator fresh(options_, clock_, store);
  return snapshot_of(fresh);
}

}  // namespace moe::testing
