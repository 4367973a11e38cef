#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "common/error.h"
#include "common/file_io.h"
#include "common/version.h"
#include "coordinator/operation.h"
#include "pipeline/pipeline_status.h"

/// What the parts of the coordinator share: start, ids, records as users see them.
namespace moe {
namespace {

constexpr int kGraceLeases = 3;
/// A gang without a job asks for one every 3 s, whatever the heartbeat is.
constexpr std::chrono::milliseconds kTwoIdleCalls{6000};
/// Answers to repeated requests are kept this long.
constexpr int64_t kRequestMicroseconds = 24LL * 3600 * 1'000'000;

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options, const Clock& clock, Store& store, CoordinatorObserver observer)
    : options_(std::move(options)),
      clock_(clock),
      store_(store),
      observer_(std::move(observer)),
      health_(std::chrono::microseconds(options_.quarantine).count()) {
  info_.set_version(kVersion);
  info_.set_schema_version(Store::kSchemaVersion);
  info_.set_http_url(options_.http_url);
  info_.set_data_root(options_.data_root.string());
  touch(info_.mutable_started());
  StoredState state = store_.load();
  const auto now = clock_.steady();
  last_call_ = now;
  for (v1::Pipeline& record : state.pipelines) {
    PipelineState engine = from_proto(record);
    const std::string id = record.id();
    pipelines_.emplace(id, PipelineEntry{std::move(record), std::move(engine), std::nullopt});
  }
  for (v1::Job& job : state.jobs) jobs_.emplace(job.id(), job);
  for (v1::Gang& gang : state.gangs) gangs_.emplace(gang.id(), GangEntry{gang, now});
  for (const v1::GangFaults& faults : state.gang_faults) health_.load(faults);
  health_.forget_old(now_micros());
  for (v1::Artifact& artifact : state.artifacts) artifacts_.emplace(artifact.id(), artifact);
  for (v1::Event& event : state.events) {
    revision_ = std::max(revision_, event.revision());
    events_.push_back(std::move(event));
  }
  for (StoredRequest& request : state.requests) {
    request_order_.emplace_back(request.created, request.request_id);
    requests_.emplace(request.request_id, std::move(request));
  }
  std::sort(request_order_.begin(), request_order_.end());
  for (StoredPoint& point : state.points) points_[point.job_id].emplace(point.point.step(), std::move(point.point));
  for (auto& [id, job] : jobs_) {
    // Gangs get time to come back before anything is taken from them.
    if (is_leased(job.state())) leases_[id] = {job.gang_id(), now + kGraceLeases * options_.lease};
    if (job.state() == v1::JOB_STATE_QUEUED) queue_.insert(queue_entry(job));
    if (job.has_inputs_missing_since())
      touch(job.mutable_inputs_missing_since());  // no gang could come while we were away
    changed_pipelines_.insert(job.pipeline_id());
  }
  for (auto& [id, entry] : pipelines_) sort_in(entry);
}

std::string canonical_bytes(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();  // else the rest of the buffer counts
  return bytes;
}

int64_t to_micros(const google::protobuf::Timestamp& stamp) {
  return google::protobuf::util::TimeUtil::TimestampToMicroseconds(stamp);
}

void Coordinator::remember(Operation& operation, StoredRequest request) {
  const int64_t oldest = request.created - kRequestMicroseconds;
  while (!request_order_.empty() && request_order_.front().first < oldest) {
    requests_.erase(request_order_.front().second);
    request_order_.pop_front();
    operation.changes().forget_requests_before = oldest;
  }
  operation.changes().requests.push_back(request);
  request_order_.emplace_back(request.created, request.request_id);
  requests_[request.request_id] = std::move(request);
}

int64_t Coordinator::now_micros() const {
  return std::chrono::duration_cast<std::chrono::microseconds>(clock_.wall().time_since_epoch()).count();
}

void Coordinator::touch(google::protobuf::Timestamp* stamp) const {
  *stamp = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(now_micros());
}

uint64_t Coordinator::version() const {
  const std::lock_guard lock(mutex_);
  return version_;
}

std::set<std::string> Coordinator::take_changed_pipelines(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  pipelines_changed_.wait_for(lock, wait, [this] { return !changed_pipelines_.empty(); });
  return std::exchange(changed_pipelines_, {});
}

namespace {

/// The only key that is `prefix` or starts with it.
template <typename Map>
absl::StatusOr<std::string> find_by_prefix(const Map& map, const std::string& prefix, const char* what) {
  if (prefix.empty()) return absl::InvalidArgumentError(concat("no ", what, " id given"));
  if (map.contains(prefix)) return prefix;
  const auto first = map.lower_bound(prefix);
  if (first == map.end() || first->first.compare(0, prefix.size(), prefix) != 0) {
    return absl::NotFoundError(concat("no ", what, " '", prefix, "'; `moectl get ", what, "s` lists them"));
  }
  const auto second = std::next(first);
  if (second != map.end() && second->first.compare(0, prefix.size(), prefix) == 0) {
    return absl::InvalidArgumentError(
        concat("'", prefix, "' may be ", what, " ", first->first, " or ", second->first, "; write more of it"));
  }
  return first->first;
}

}  // namespace

Coordinator::Result<std::string> Coordinator::resolve_job(const std::string& prefix) const {
  return find_by_prefix(jobs_, prefix, "job");
}

Coordinator::Result<std::string> Coordinator::resolve_pipeline(const std::string& prefix) const {
  return find_by_prefix(pipelines_, prefix, "pipeline");
}

Coordinator::Result<std::string> Coordinator::resolve_gang(const std::string& prefix) const {
  return find_by_prefix(gangs_, prefix, "gang");
}

Coordinator::Result<std::string> Coordinator::resolve(const std::string& prefix) const {
  if (jobs_.contains(prefix)) return prefix;
  // Job ids begin with their pipeline's: as long as a prefix fits a pipeline, that is meant.
  Result<std::string> pipeline = resolve_pipeline(prefix);
  if (pipeline.ok() || !absl::IsNotFound(pipeline.status())) return pipeline;
  Result<std::string> job = resolve_job(prefix);
  if (absl::IsNotFound(job.status())) {
    return absl::NotFoundError(
        concat("no pipeline or job '", prefix, "'; `moectl get pipelines` and `moectl get jobs` list them"));
  }
  return job;
}

std::chrono::milliseconds Coordinator::silence_until_unheard() const {
  return std::max(3 * options_.heartbeat, kTwoIdleCalls);
}

std::chrono::milliseconds Coordinator::silence_until_lost() const {
  return std::max(options_.lease, kTwoIdleCalls);
}

v1::Gang Coordinator::shown_gang(const GangEntry& gang, const std::string& job_id) const {
  v1::Gang shown = gang.record;
  shown.set_job_id(job_id);
  shown.set_message(health_.why(launcher_of(gang.record.id()), now_micros()));
  const auto silent = clock_.steady() - gang.heard;
  shown.set_state(silent > silence_until_lost()      ? "lost"
                  : silent > silence_until_unheard() ? "unheard"
                  : !job_id.empty()                  ? "busy"
                  : !shown.message().empty()         ? "quarantined"
                                                     : "idle");
  return shown;
}

std::string Coordinator::launcher_of(const std::string& gang_id) const {
  const auto gang = gangs_.find(gang_id);
  return gang == gangs_.end() || gang->second.record.launcher_id().empty() ? gang_id
                                                                           : gang->second.record.launcher_id();
}

GangShape Coordinator::shape_of(const std::string& gang_id, const GangEntry& gang, bool is_idle) const {
  const std::string launcher = launcher_of(gang_id);
  return {gang_id,
          gang.record.ranks_size(),
          gang.record.device(),
          is_idle,
          launcher,
          health_.is_quarantined(launcher, now_micros())};
}

std::vector<GangShape> Coordinator::gang_shapes() const {
  std::set<std::string> busy;
  for (const auto& [job, lease] : leases_) busy.insert(lease.gang_id);
  std::vector<GangShape> shapes;
  for (const auto& [id, gang] : gangs_) {
    if (clock_.steady() - gang.heard > silence_until_lost()) continue;
    shapes.push_back(shape_of(id, gang, !busy.contains(id)));
  }
  return shapes;
}

std::string Coordinator::pending_explanation(const v1::Job& job) const {
  const PipelineEntry& pipeline = pipelines_.at(job.pipeline_id());
  if (job.state() == v1::JOB_STATE_QUEUED) {
    const std::string why = explain(queue_, queue_entry(job), gang_shapes(), now_micros());
    if (!job.has_inputs_missing_since()) return why;
    const int64_t left =
        to_micros(job.inputs_missing_since()) + std::chrono::microseconds(options_.input_grace).count() - now_micros();
    return concat(why,
                  "; no gang that is there sees what it reads, and the coordinator cannot tell whether another would: "
                  "it ends FAILED ",
                  left > 0 ? concat("in ", left / 1'000'000 + 1, " s") : std::string("with the next attempt"),
                  " unless one does");
  }
  if (job.state() != v1::JOB_STATE_BLOCKED) return "";
  if (is_terminal(pipeline.engine.phase))
    return concat("the pipeline is ", to_string(pipeline.engine.phase), ": ", pipeline.engine.reason);
  for (const StageState& stage : pipeline.engine.stages) {
    if (stage.name == job.stage().name()) break;
    if (stage.gate && stage.gate_status == GateStatus::kHeld) {
      return concat("gate '", stage.name, "' holds the pipeline: ", stage.message, "; let it pass: moectl approve ",
                    job.pipeline_id(), " --gate ", stage.name);
    }
    if (!stage.gate && stage.status != StageStatus::kSucceeded && stage.status != StageStatus::kSkipped) {
      return concat("waits for stage '", stage.name, "' (", to_string(stage.status), ")");
    }
  }
  return concat("waits for an earlier stage; the pipeline is ", phase_of(pipeline));
}

v1::Job Coordinator::full_job(const v1::Job& job) const {
  v1::Job full = job;
  full.set_pending_explanation(pending_explanation(job));
  if (const auto load = reported_load_.find(job.id()); load != reported_load_.end()) {
    *full.mutable_expert_load() = load->second.experts;
    *full.mutable_attention_expert_load() = load->second.attention_experts;
  }
  return full;
}

v1::Pipeline Coordinator::full_pipeline(const PipelineEntry& entry) const {
  v1::Pipeline full = entry.record;
  put_state(entry, full);
  for (v1::StageState& stage : *full.mutable_stages()) {
    if (stage.is_gate()) continue;
    const v1::Job& job = jobs_.at(full.id() + "-" + stage.name());
    stage.set_job_id(job.id());
    stage.set_job_state(job.state());
  }
  return full;
}

std::vector<v1::JobState> Coordinator::job_states(const PipelineEntry& entry) const {
  std::vector<v1::JobState> states;
  for (const StageState& stage : entry.engine.stages) {
    if (!stage.gate) states.push_back(jobs_.at(entry.record.id() + "-" + stage.name).state());
  }
  return states;
}

const char* Coordinator::phase_of(const PipelineEntry& entry) const {
  if (is_terminal(entry.engine.phase)) return to_string(entry.engine.phase);
  return to_string(only_jobs_pause(entry.engine, job_states(entry)) ? PipelinePhase::kPaused : entry.engine.phase);
}

void Coordinator::put_state(const PipelineEntry& entry, v1::Pipeline& pipeline) const {
  to_proto(entry.engine, pipeline);
  show_paused_jobs(entry.engine, job_states(entry), pipeline);
}

KnownNames Coordinator::known_names() const {
  KnownNames names;
  for (const auto& [id, gang] : gangs_) {
    for (const auto& [list, known] : gang.record.capabilities().known())
      names[list].insert(known.names().begin(), known.names().end());
  }
  return names;
}

v1::ServerInfo Coordinator::server_info() {
  const std::lock_guard lock(mutex_);
  notice_stall();
  v1::ServerInfo info = info_;
  info.set_gangs(static_cast<int>(gang_shapes().size()));
  info.set_queued_jobs(static_cast<int>(queue_.size()));
  info.set_running_jobs(static_cast<int>(leases_.size()));
  return info;
}

}  // namespace moe
