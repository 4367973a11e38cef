#include "worker/lease_agent.h"

#include <google/protobuf/util/time_util.h>
#include <unistd.h>

#include <algorithm>

#include "common/error.h"
#include "common/exit_code.h"
#include "common/log.h"

namespace moe {
namespace {

using google::protobuf::util::TimeUtil;

/// Metrics that could not be sent are kept up to here; metrics.jsonl has them all.
constexpr int kMostPoints = 5000;
constexpr std::chrono::milliseconds kRetry{300};

/// Nothing of this process may touch shared storage any more, so not even destructors run.
[[noreturn]] void leave_fenced(const std::exception& error) {
  log_error(concat("event=fenced reason=\"", error.what(), "\""));
  ::_exit(static_cast<int>(ExitCode::kFenced));
}

/// A step that has no such experts says nothing of them.
void set_load(const std::vector<std::vector<int64_t>>& layers,
              google::protobuf::RepeatedPtrField<v1::LayerLoad>& load) {
  if (layers.empty()) return;
  load.Clear();
  for (const std::vector<int64_t>& tokens : layers) load.Add()->mutable_tokens()->Add(tokens.begin(), tokens.end());
}

}  // namespace

LeaseAgent::LeaseAgent(CoordinatorClient& client, const v1::Lease& lease, std::chrono::milliseconds orphan_limit)
    : client_(client), lease_(lease), orphan_limit_(orphan_limit), last_answer_(std::chrono::steady_clock::now()) {
  progress_.set_phase("preparing");
  metrics_.set_job_id(lease.job_id());
  metrics_.set_attempt(lease.attempt());
  thread_ = std::thread([this] { run(); });
}

LeaseAgent::~LeaseAgent() {
  expect_end();
  thread_.join();
}

void LeaseAgent::expect_end() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
}

void LeaseAgent::set_progress(const ProgressUpdate& update) {
  const std::lock_guard lock(mutex_);
  progress_.set_phase(update.phase);
  progress_.set_step(update.step);
  progress_.set_target(update.steps);
  progress_.set_unit(update.unit);
  progress_.set_loss(update.loss);
  progress_.set_tokens_per_second(update.tokens_per_second);
}

void LeaseAgent::add_step(const StepRecord& record) {
  v1::MetricPoint point;
  point.set_step(record.step);
  for (const auto& [name, value] : values_of(record)) (*point.mutable_values())[name] = value;
  const std::lock_guard lock(mutex_);
  *metrics_.add_points() = std::move(point);
  if (metrics_.points_size() > kMostPoints)
    metrics_.mutable_points()->DeleteSubrange(0, metrics_.points_size() - kMostPoints);
  set_load(record.expert_load, *metrics_.mutable_expert_load());
  set_load(record.attention_expert_load, *metrics_.mutable_attention_expert_load());
}

bool LeaseAgent::commit(const SavedCheckpoint& saved) {
  v1::Checkpoint checkpoint;
  checkpoint.set_step(saved.step);
  checkpoint.set_attempt(lease_.attempt());
  checkpoint.set_path(lease_.job_id() + "/checkpoints/" + saved.name);
  checkpoint.set_digest(saved.digest);
  checkpoint.set_bytes(saved.bytes);
  try {
    client_.commit_checkpoint(lease_, checkpoint);
    return true;
  } catch (const Unavailable& error) {
    log_warning(concat("event=commit_deferred step=", saved.step, " reason=\"", error.what(), "\"; training goes on"));
    const std::lock_guard lock(mutex_);
    pending_commit_ = checkpoint;
    return false;
  }
}

void LeaseAgent::send_pending_commit() {
  std::optional<v1::Checkpoint> pending;
  {
    const std::lock_guard lock(mutex_);
    pending = pending_commit_;
  }
  if (!pending) return;
  client_.commit_checkpoint(lease_, *pending);
  log_info(concat("event=commit_caught_up step=", pending->step()));
  const std::lock_guard lock(mutex_);
  if (pending_commit_ && pending_commit_->step() == pending->step()) pending_commit_.reset();
}

void LeaseAgent::send_metrics() {
  v1::ReportMetricsRequest batch;
  {
    const std::lock_guard lock(mutex_);
    if (metrics_.points().empty()) return;
    batch = metrics_;
  }
  try {
    client_.report_metrics(batch);
  } catch (const Unavailable&) {
    throw;
  } catch (const Fenced&) {
    throw;
  } catch (
      const std::exception& error) {  // these will never be taken: neither heartbeats nor the job's end wait for them
    log_warning(concat("event=metrics_refused points=", batch.points_size(), " reason=\"", error.what(),
                       "\"; metrics.jsonl has them"));
  }
  const std::lock_guard lock(mutex_);
  const int sent = std::min(batch.points_size(), metrics_.points_size());
  metrics_.mutable_points()->DeleteSubrange(0, sent);
}

void LeaseAgent::send_progress() {
  v1::Progress progress;
  {
    const std::lock_guard lock(mutex_);
    progress = progress_;
  }
  const v1::Directive directive = client_.heartbeat(lease_, progress);
  if (directive == v1::DIRECTIVE_RELEASE && !release_) {
    const std::lock_guard lock(mutex_);
    log_info(concat("event=release_asked step=", progress_.step(), "; the job saves and leaves"));
    release_ = true;
  }
}

void LeaseAgent::beat() {
  send_progress();
  send_pending_commit();
  send_metrics();
}

void LeaseAgent::run() {
  const std::chrono::milliseconds interval(TimeUtil::DurationToMilliseconds(lease_.heartbeat_interval()));
  // Metrics flow every two seconds, or as fast as heartbeats.
  const auto period = std::min<std::chrono::milliseconds>(interval, std::chrono::seconds(2));
  bool is_away = false;
  while (true) {
    try {
      beat();
      last_answer_ = std::chrono::steady_clock::now();
      if (std::exchange(is_away, false)) log_info("event=coordinator_back");
    } catch (const Fenced& error) {
      const std::lock_guard lock(mutex_);
      if (!closing_)
        leave_fenced(error);  // a job that is just being completed is no longer ours either, and that is fine
    } catch (const std::exception& error) {
      const auto silent = std::chrono::steady_clock::now() - last_answer_;
      if (!std::exchange(is_away, true))
        log_warning(concat("event=coordinator_away reason=\"", error.what(), "\"; going on without it"));
      if (silent > orphan_limit_ && !orphaned_.exchange(true)) {
        log_warning(concat("event=orphaned seconds=", std::chrono::duration<double>(silent).count(),
                           "; the job saves and leaves"));
      }
    }
    std::unique_lock lock(mutex_);
    if (wake_.wait_for(lock, is_away ? std::min(period, kRetry * 2) : period, [this] { return closing_; })) return;
  }
}

void LeaseAgent::complete(v1::CompleteAttemptRequest request) {
  request.set_job_id(lease_.job_id());
  request.set_attempt(lease_.attempt());
  const auto deadline = std::chrono::steady_clock::now() + orphan_limit_;
  try {
    send_progress();  // the last step is younger than the last heartbeat
  } catch (const Unavailable&) {
    // What follows waits for the coordinator.
  }
  while (true) {
    try {
      send_pending_commit();
      send_metrics();
      {
        const std::lock_guard lock(mutex_);
        closing_ = true;  // heartbeats after this one would be those of a stranger
      }
      client_.complete(request);
      return;
    } catch (const Unavailable& error) {
      {
        const std::lock_guard lock(mutex_);
        closing_ = false;
      }
      if (std::chrono::steady_clock::now() > deadline) throw;
      std::this_thread::sleep_for(kRetry);
    }
  }
}

void LeaseAgent::complete_once(v1::CompleteAttemptRequest request) noexcept {
  try {
    request.set_job_id(lease_.job_id());
    request.set_attempt(lease_.attempt());
    expect_end();
    client_.complete(std::move(request));
  } catch (const std::exception& error) {
    log_warning(concat("event=end_not_reported reason=\"", error.what(), "\"; the lease will expire"));
  }
}

}  // namespace moe
