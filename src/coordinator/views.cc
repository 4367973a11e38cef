#include <algorithm>
#include <tuple>

#include "common/error.h"
#include "coordinator/operation.h"
#include "pipeline/pipeline_status.h"

/// What the status page and metrics read: living work whole, ended work as far as there is room. Two indexes, living_
/// and ended_, keep the one from hiding behind the other.
namespace moe {
namespace {

bool is_ready_to_move(v1::JobState state) {
  return state != v1::JOB_STATE_BLOCKED && !is_terminal(state);
}

/// At work, queued, paused, blocked: the order in which jobs are worth a series.
int place_of(v1::JobState state) {
  if (is_leased(state)) return 0;
  if (state == v1::JOB_STATE_QUEUED) return 1;
  return state == v1::JOB_STATE_PAUSED ? 2 : 3;
}

v1::Job light(const v1::Job& job) {
  v1::Job copy;
  copy.set_id(job.id());
  copy.set_pipeline_id(job.pipeline_id());
  copy.mutable_stage()->set_name(job.stage().name());
  copy.set_kind(job.kind());
  copy.set_state(job.state());
  if (job.has_started()) *copy.mutable_started() = job.started();
  if (job.has_finished()) *copy.mutable_finished() = job.finished();
  if (!job.checkpoints().empty()) *copy.add_checkpoints() = *job.checkpoints().rbegin();
  return copy;
}

}  // namespace

void Coordinator::sort_in(PipelineEntry& entry) {
  const std::string& id = entry.record.id();
  std::optional<int64_t> ended;
  if (is_terminal(entry.engine.phase)) {
    ended = to_micros(entry.record.finished());
    for (const StageState& stage : entry.engine.stages) {
      if (stage.gate) continue;
      const v1::Job& job = jobs_.at(id + "-" + stage.name);
      if (is_ready_to_move(job.state())) {
        ended.reset();
        break;
      }
      if (job.has_finished()) ended = std::max(*ended, to_micros(job.finished()));
    }
  }
  if (entry.ended && entry.ended != ended) ended_.erase({*entry.ended, id});
  entry.ended = ended;
  if (ended) {
    ended_.insert({*ended, id});
    living_.erase(id);
  } else {
    living_.insert(id);
  }
}

std::vector<const Coordinator::PipelineEntry*> Coordinator::living_in_order() const {
  struct Placed {
    int place;
    int64_t created;
    const PipelineEntry* entry;
  };
  std::vector<Placed> placed;
  for (const std::string& id : living_) {
    const PipelineEntry& entry = pipelines_.at(id);
    const std::vector<v1::JobState> jobs = job_states(entry);
    const bool is_at_work = std::any_of(jobs.begin(), jobs.end(), [](v1::JobState state) { return is_leased(state); });
    placed.push_back({is_at_work                                   ? 0
                      : entry.engine.phase == PipelinePhase::kHeld ? 1
                                                                   : 2,
                      to_micros(entry.record.created()), &entry});
  }
  // Those of one instant stay in the order of their ids.
  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::tie(a.place, b.created) < std::tie(b.place, a.created);
  });
  std::vector<const PipelineEntry*> entries;
  for (const Placed& next : placed) entries.push_back(next.entry);
  return entries;
}

Coordinator::View Coordinator::counted() const {
  View view;
  for (int state = v1::JOB_STATE_UNSPECIFIED + 1; v1::JobState_IsValid(state); ++state) {
    if (!is_terminal(static_cast<v1::JobState>(state)))
      view.living_jobs[state_name(static_cast<v1::JobState>(state))] = 0;
  }
  for (const std::string& id : living_) {
    const PipelineEntry& entry = pipelines_.at(id);
    ++view.living_pipelines[phase_of(entry)];
    for (const v1::JobState state : job_states(entry)) {
      if (!is_terminal(state)) ++view.living_jobs[state_name(state)];
    }
  }
  for (const QueuedJob& queued : queue_) {
    const int64_t since = to_micros(jobs_.at(queued.id).queued());
    view.oldest_queued = std::min(view.oldest_queued.value_or(since), since);
  }
  view.ended_pipelines = ended_.size();
  std::map<std::string, std::string> job_of;
  for (const auto& [job, lease] : leases_) job_of[lease.gang_id] = job;
  for (const auto& [id, gang] : gangs_) view.gangs.push_back(shown_gang(gang, job_of[id]));
  return view;
}

Coordinator::View Coordinator::view(size_t max_pipelines) {
  const std::lock_guard lock(mutex_);
  notice_stall();
  View view = counted();
  if (max_pipelines == 0) return view;
  const auto add_job = [&](const std::string& id) {
    view.jobs.push_back(full_job(jobs_.at(id)));
    const auto points = points_.find(id);
    if (points == points_.end()) return;
    for (const auto& [step, point] : points->second) {
      if (const auto loss = point.values().find("loss"); loss != point.values().end())
        view.loss[id].emplace_back(step, loss->second);
    }
  };
  const auto add_pipeline = [&](const PipelineEntry& entry) {
    const v1::Pipeline& shown = view.pipelines.emplace_back(full_pipeline(entry));
    for (const v1::StageState& stage : shown.stages()) {
      if (!stage.is_gate()) add_job(stage.job_id());
    }
  };
  for (const PipelineEntry* entry : living_in_order()) {
    if (view.pipelines.size() < max_pipelines) {
      add_pipeline(*entry);
      continue;
    }
    for (const StageState& stage : entry->engine.stages) {
      const std::string id = entry->record.id() + "-" + stage.name;
      if (!stage.gate && leases_.contains(id)) add_job(id);
    }
  }
  for (auto ended = ended_.rbegin(); ended != ended_.rend() && view.pipelines.size() < max_pipelines; ++ended) {
    add_pipeline(pipelines_.at(ended->second));
  }
  return view;
}

Coordinator::View Coordinator::work(size_t max_jobs, int64_t ended_since) {
  const std::lock_guard lock(mutex_);
  notice_stall();
  View view = counted();
  std::vector<const v1::Job*> living, ended;
  const auto look_at = [&](const PipelineEntry& entry) {
    v1::Pipeline& shown = view.pipelines.emplace_back();
    shown.set_id(entry.record.id());
    shown.set_user(entry.record.user());
    if (entry.ended) {
      shown.set_phase(phase_of(entry));  // nobody asks for its gates
    } else {
      put_state(entry, shown);
    }
    for (const StageState& stage : entry.engine.stages) {
      if (stage.gate) continue;
      const v1::Job& job = jobs_.at(entry.record.id() + "-" + stage.name);
      if (!is_terminal(job.state())) {
        if (!entry.ended) living.push_back(&job);
      } else if (to_micros(job.finished()) >= ended_since) {
        ended.push_back(&job);
      }
    }
  };
  for (const PipelineEntry* entry : living_in_order()) look_at(*entry);
  for (auto last = ended_.rbegin(); last != ended_.rend() && last->first >= ended_since && ended.size() < max_jobs;
       ++last)
    look_at(pipelines_.at(last->second));
  std::stable_sort(living.begin(), living.end(),
                   [](const v1::Job* a, const v1::Job* b) { return place_of(a->state()) < place_of(b->state()); });
  std::stable_sort(ended.begin(), ended.end(), [](const v1::Job* a, const v1::Job* b) {
    return to_micros(a->finished()) > to_micros(b->finished());
  });
  living.insert(living.end(), ended.begin(), ended.end());
  if (living.size() > max_jobs) living.resize(max_jobs);
  for (const v1::Job* job : living) view.jobs.push_back(light(*job));
  return view;
}

}  // namespace moe
