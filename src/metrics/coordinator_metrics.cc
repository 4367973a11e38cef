#include "metrics/coordinator_metrics.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>

#include "metrics/coordinator_catalogue.h"

namespace moe {
namespace {

using Rows = std::map<Labels, double>;

}  // namespace

struct CoordinatorMetrics::Impl {
  Impl(prometheus::Registry& registry, CoordinatorLabels known);

  void set_jobs(const std::vector<CoordinatorSnapshot::Job>& jobs);

  std::mutex mutex;
  CoordinatorCatalogue series;
  const CoordinatorLabels labels;
};

CoordinatorMetrics::Impl::Impl(prometheus::Registry& registry, CoordinatorLabels known)
    : series(registry), labels(std::move(known)) {
  series.fencing_rejections.at({});
  series.store_commit.at({});
  for (const auto& [method, codes] : labels.methods) {
    series.rpc_duration.at({{"method", method}});
    for (const std::string& code : codes) series.rpc_requests.at({{"method", method}, {"code", code}});
  }
  for (const std::string& reason : labels.expiry_reasons) series.lease_expirations.at({{"reason", reason}});
  for (const std::string& kind : labels.kinds) {
    for (const std::string& outcome : labels.outcomes) series.jobs_finished.at({{"kind", kind}, {"outcome", outcome}});
  }
}

void CoordinatorMetrics::Impl::set_jobs(const std::vector<CoordinatorSnapshot::Job>& jobs) {
  Rows info;
  Rows state;
  Rows timestamp;
  Rows step;
  std::set<std::string> ids;
  for (size_t i = 0; i < std::min(jobs.size(), kMaxJobs); ++i) {
    const CoordinatorSnapshot::Job& job = jobs[i];
    const Labels id{{"job_id", job.job_id}};
    ids.insert(job.job_id);
    info[{{"job_id", job.job_id},
          {"name", job.name},
          {"kind", job.kind},
          {"queue", job.queue},
          {"user", job.user},
          {"pipeline_id", job.pipeline_id}}] = 1;
    state[id] = job.state;
    if (!job.has_ended) {
      for (const std::string& reason : labels.restart_reasons)
        series.job_restarts.at({{"job_id", job.job_id}, {"reason", reason}});
    }
    if (job.last_checkpoint_timestamp) timestamp[id] = *job.last_checkpoint_timestamp;
    if (job.last_checkpoint_step) step[id] = static_cast<double>(*job.last_checkpoint_step);
  }
  series.job_info.replace(info);
  series.job_state.replace(state);
  series.job_checkpoint_timestamp.replace(timestamp);
  series.job_checkpoint_step.replace(step);
  series.job_restarts.remove_if([&](const Labels& labels) { return !ids.contains(labels.at("job_id")); });
}

CoordinatorMetrics::CoordinatorMetrics(MetricsPage& page, CoordinatorLabels labels)
    : impl_(std::make_unique<Impl>(page.registry(), std::move(labels))) {}

CoordinatorMetrics::~CoordinatorMetrics() = default;

void CoordinatorMetrics::set(const CoordinatorSnapshot& snapshot) {
  Rows heartbeats;
  Rows gangs;
  for (const char* state : {"idle", "busy", "unheard", "lost", "quarantined"}) gangs[{{"state", state}}] = 0;
  for (const auto& gang : snapshot.gangs) {
    heartbeats[{{"job_id", gang.job_id}, {"gang_id", gang.gang_id}}] = gang.last_heartbeat_timestamp;
    ++gangs[{{"state", gang.state}}];
  }
  Rows gates;
  for (const auto& gate : snapshot.gates) {
    gates[{{"pipeline_id", gate.pipeline_id}, {"stage", gate.stage}, {"gate", gate.gate}}] = gate.passed ? 1 : 0;
  }
  Rows queued;
  Rows waits;
  for (const auto& queue : snapshot.queues) {
    waits[{{"queue", queue.queue}}] = queue.oldest_wait_seconds;
    for (const auto& [state, count] : queue.jobs) {
      queued[{{"queue", queue.queue}, {"state", state}}] = static_cast<double>(count);
    }
  }
  Rows files;
  for (const auto& [file, bytes] : snapshot.store_bytes) files[{{"file", file}}] = static_cast<double>(bytes);

  const std::lock_guard lock(impl_->mutex);
  impl_->set_jobs(snapshot.jobs);
  impl_->series.gang_heartbeat.replace(heartbeats);
  impl_->series.gangs.replace(gangs);
  impl_->series.gate_passed.replace(gates);
  impl_->series.queue_jobs.replace(queued);
  impl_->series.queue_oldest_wait.replace(waits);
  impl_->series.store_bytes.replace(files);
}

void CoordinatorMetrics::rpc(const std::string& method, const std::string& code, double seconds) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.rpc_requests.at({{"method", method}, {"code", code}}).Increment();
  impl_->series.rpc_duration.at({{"method", method}}).Observe(seconds);
}

void CoordinatorMetrics::lease_expired(const std::string& reason) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.lease_expirations.at({{"reason", reason}}).Increment();
}

void CoordinatorMetrics::fenced() {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.fencing_rejections.at({}).Increment();
}

void CoordinatorMetrics::restarted(const std::string& job_id, const std::string& reason) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.job_restarts.at({{"job_id", job_id}, {"reason", reason}}).Increment();
}

void CoordinatorMetrics::finished(const std::string& kind, const std::string& outcome) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.jobs_finished.at({{"kind", kind}, {"outcome", outcome}}).Increment();
}

void CoordinatorMetrics::store_commit(double seconds) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.store_commit.at({}).Observe(seconds);
}

}  // namespace moe
