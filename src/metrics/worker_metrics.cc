#include "metrics/worker_metrics.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <set>
#include <utility>

#include "common/error.h"
#include "common/measures.h"
#include "metrics/router_load.h"
#include "metrics/worker_catalogue.h"

namespace moe {
namespace {

using ExpertLoad = std::vector<std::vector<int64_t>>;

/// Beyond this many (layer, expert) pairs only the layers' summaries are exposed: the page would outgrow its scrape
/// interval.
constexpr size_t kMaxExpertSeries = 4096;
/// Least digits of a layer's and an expert's label, so that jobs of the usual sizes share their labels.
constexpr size_t kLayerDigits = 2;
constexpr size_t kExpertDigits = 3;

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Labels sort as text in Prometheus and Grafana, so numbers get leading zeros.
std::string padded(size_t number, size_t count, size_t least_digits) {
  const size_t digits = std::max(least_digits, std::to_string(count > 0 ? count - 1 : 0).size());
  std::string text = std::to_string(number);
  return std::string(digits - std::min(digits, text.size()), '0') + text;
}

size_t widest(const ExpertLoad& load) {
  size_t experts = 0;
  for (const auto& layer : load) experts = std::max(experts, layer.size());
  return experts;
}

}  // namespace

WorkerCatalogue::WorkerCatalogue(prometheus::Registry& registry) : Catalogue(registry) {
  // A series of several measures, told apart by a label, has the sentences of all of them.
  std::map<std::string, std::string> helps;
  std::set<std::string> works;
  for (const Measure& measure : measures()) {
    if (measure.series.empty()) continue;
    if (measure.of_work) works.insert(measure.series);
    std::string& help = helps[measure.series];
    if (help.find(measure.help) != std::string::npos) continue;
    if (!help.empty()) help += ' ';
    help += measure.help;
    if (!measure.unit.empty()) help += concat(" [", measure.unit, "]");
    for (const auto& [label, value] : measure.labels) help += concat(" (", label, " ", value, ")");
    if (!measure.domain_label.empty()) help += concat(" (", measure.domain_label, ")");
  }
  for (const auto& [name, help] : helps) {
    if (works.contains(name)) {
      work[name] = std::make_unique<Work>(*this, name, help);
    } else {
      measured[name] = std::make_unique<GaugeFamily>(*this, name, help);
    }
  }
}

struct WorkerMetrics::Impl {
  Impl(prometheus::Registry& registry, bool leader) : series(registry), is_leader(leader) {}

  bool is_running() const { return !job.empty(); }
  Labels with(std::string key, std::string value) const {
    Labels labels = job;
    labels.emplace(std::move(key), std::move(value));
    return labels;
  }

  Labels labels_of(const Measure& measure) const {
    Labels labels = job;
    labels.insert(measure.labels.begin(), measure.labels.end());
    return labels;
  }

  void end_job() {
    routed.clear();
    series.remove_if([](const Labels& labels) { return labels.contains("job_id"); });
    job.clear();
  }

  void begin_counters();
  void set(const std::string& name, double value);
  void train_scalars(const StepRecord& record);
  void router_load_of(const ExpertLoad& load);
  void attention_load_of(const ExpertLoad& load);
  void routed_tokens_of(const ExpertLoad& load);

  std::mutex mutex;
  WorkerCatalogue series;
  const bool is_leader;
  Labels job;                                             ///< job_id and stage; empty: none runs
  std::string kind;                                       ///< of the running job
  std::vector<std::vector<prometheus::Counter*>> routed;  ///< of the running job, [layer][expert]
};

void WorkerMetrics::Impl::begin_counters() {
  for (const char* op : kCommOps) {
    series.comm_seconds.at(with("op", op));
    series.comm_bytes.at(with("op", op));
    series.comm_ops.at(with("op", op));
  }
  if (is_leader && step_measure(kind, "loss") != nullptr) {
    for (CounterFamily* counter :
         {&series.steps, &series.tokens, &series.nonfinite_steps, &series.skipped_steps, &series.checkpoint_failures}) {
      counter->at(job);
    }
    series.step_duration.at(job);
    for (const char* phase : kCheckpointPhases) series.checkpoint_duration.at(with("phase", phase));
  }
  if (const Measure* units = work_measure(kind); is_leader && units != nullptr && !units->series.empty())
    series.work.at(units->series)->done.at(labels_of(*units));
}

/// The gauge of a number of the job, if it has one; `name` may end with a domain.
void WorkerMetrics::Impl::set(const std::string& name, double value) {
  const std::string plain = name.substr(0, name.find('.'));
  for (const Measure& measure : measures()) {
    if (measure.kind != kind || measure.name != plain || measure.series.empty() || measure.of_work) continue;
    // A series by domain has no row for the whole: it would be counted twice where rows are summed.
    if (measure.domain_label.empty() != (plain == name)) continue;
    Labels labels = labels_of(measure);
    if (plain != name) labels.emplace(measure.domain_label, name.substr(plain.size() + 1));
    series.measured.at(measure.series)->at(labels).Set(value);
  }
}

void WorkerMetrics::Impl::train_scalars(const StepRecord& record) {
  for (const auto& [name, value] : values_of(record)) set(name, value);
  series.measured.at("moe_train_loss")->at(with("component", "total")).Set(record.total_loss);
  series.train_step.at(job).Set(static_cast<double>(record.step));
  series.target_steps.at(job).Set(static_cast<double>(record.steps));
  series.steps.at(job).Increment();
  series.tokens.at(job).Increment(static_cast<double>(record.step_tokens));
  series.nonfinite_steps.at(job).Increment(record.is_finite() ? 0 : 1);
  series.skipped_steps.at(job).Increment(record.skipped ? 1 : 0);
  series.step_duration.at(job).Observe(record.seconds);
}

void WorkerMetrics::Impl::router_load_of(const ExpertLoad& load) {
  for (size_t layer = 0; layer < load.size(); ++layer) {
    if (load[layer].empty()) continue;  // a dense layer
    const RouterLoad even = router_load(load[layer]);
    const Labels labels = with("layer", padded(layer, load.size(), kLayerDigits));
    series.load_max_ratio.at(labels).Set(even.max_ratio);
    series.load_min_ratio.at(labels).Set(even.min_ratio);
    series.load_cv.at(labels).Set(even.cv);
    series.entropy_ratio.at(labels).Set(even.entropy_ratio);
    series.dead_experts.at(labels).Set(static_cast<double>(even.dead_experts));
  }
}

void WorkerMetrics::Impl::attention_load_of(const ExpertLoad& load) {
  for (size_t layer = 0; layer < load.size(); ++layer) {
    if (load[layer].empty()) continue;  // dense attention
    const RouterLoad even = router_load(load[layer]);
    const Labels labels = with("layer", padded(layer, load.size(), kLayerDigits));
    series.attention_load_max_ratio.at(labels).Set(even.max_ratio);
    series.attention_load_min_ratio.at(labels).Set(even.min_ratio);
  }
}

void WorkerMetrics::Impl::routed_tokens_of(const ExpertLoad& load) {
  const size_t experts = widest(load);
  if (load.size() * experts > kMaxExpertSeries) return;
  routed.resize(load.size());
  for (size_t layer = 0; layer < load.size(); ++layer) {
    // Finding 2,048 series by their labels takes milliseconds; they are looked up once a job.
    for (size_t expert = routed[layer].size(); expert < load[layer].size(); ++expert) {
      Labels labels = with("layer", padded(layer, load.size(), kLayerDigits));
      labels.emplace("expert", padded(expert, experts, kExpertDigits));
      routed[layer].push_back(&series.routed_tokens.at(labels));
    }
    for (size_t expert = 0; expert < load[layer].size(); ++expert) {
      routed[layer][expert]->Increment(static_cast<double>(load[layer][expert]));
    }
  }
}

WorkerMetrics::WorkerMetrics(MetricsPage& page, bool is_leader)
    : impl_(std::make_unique<Impl>(page.registry(), is_leader)) {}

WorkerMetrics::~WorkerMetrics() = default;

void WorkerMetrics::build_info(const BuildInfo& info) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.build_info.replace(
      {{{{"version", info.version}, {"git_sha", info.git_sha}, {"torch", info.torch}, {"nccl", info.nccl}}, 1}});
}

void WorkerMetrics::worker_info(const std::string& gpu, int ep_rank, int dp_rank) {
  const std::lock_guard lock(impl_->mutex);
  impl_->series.worker_info.replace(
      {{{{"gpu", gpu}, {"ep_rank", std::to_string(ep_rank)}, {"dp_rank", std::to_string(dp_rank)}}, 1}});
}

void WorkerMetrics::begin_job(const std::string& job_id, const std::string& stage, const std::string& kind) {
  const std::lock_guard lock(impl_->mutex);
  impl_->end_job();
  impl_->job = {{"job_id", job_id}, {"stage", stage}};
  impl_->kind = kind;
  impl_->begin_counters();
}

void WorkerMetrics::expect_experts(const std::vector<int64_t>& experts_by_layer) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running() || !impl_->is_leader) return;
  ExpertLoad nothing;
  for (const int64_t experts : experts_by_layer) nothing.emplace_back(experts);
  impl_->routed_tokens_of(nothing);
}

void WorkerMetrics::end_job() {
  const std::lock_guard lock(impl_->mutex);
  impl_->end_job();
}

void WorkerMetrics::train_step(const StepRecord& record) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running()) return;
  impl_->series.step.at(impl_->job).Set(static_cast<double>(record.step));
  impl_->series.last_step_timestamp.at(impl_->job).Set(unix_time());
  if (!impl_->is_leader) return;
  impl_->train_scalars(record);
  impl_->router_load_of(record.expert_load);
  impl_->routed_tokens_of(record.expert_load);
  impl_->attention_load_of(record.attention_expert_load);
}

void WorkerMetrics::units(int64_t done, int64_t total) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running() || !impl_->is_leader) return;
  const Measure* units = work_measure(impl_->kind);
  if (units == nullptr || units->series.empty()) return;
  WorkerCatalogue::Work& work = *impl_->series.work.at(units->series);
  const Labels labels = impl_->labels_of(*units);
  prometheus::Counter& counter = work.done.at(labels);
  counter.Increment(static_cast<double>(done) - counter.Value());  // never falls: a negative increment changes nothing
  work.target.at(labels).Set(static_cast<double>(total));
}

void WorkerMetrics::result(const std::map<std::string, double>& values) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running() || !impl_->is_leader) return;
  for (const auto& [name, value] : values) impl_->set(name, value);
}

void WorkerMetrics::checkpoint(double seconds, const std::string& phase, int64_t bytes, bool ok) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running() || !impl_->is_leader) return;
  impl_->series.checkpoint_failures.at(impl_->job).Increment(ok ? 0 : 1);
  if (!ok) return;
  impl_->series.checkpoint_duration.at(impl_->with("phase", phase)).Observe(seconds);
  if (bytes > 0) impl_->series.checkpoint_bytes.at(impl_->job).Set(static_cast<double>(bytes));
}

void WorkerMetrics::comm(const std::string& op, double seconds, int64_t bytes) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running()) return;
  const Labels labels = impl_->with("op", op);
  impl_->series.comm_seconds.at(labels).Increment(seconds);
  impl_->series.comm_bytes.at(labels).Increment(static_cast<double>(bytes));
  impl_->series.comm_ops.at(labels).Increment();
}

void WorkerMetrics::set_comm_inflight(double seconds) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->is_running()) return;
  impl_->series.comm_inflight.at(impl_->job).Set(seconds);
}

}  // namespace moe
