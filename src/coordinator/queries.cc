#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <fstream>
#include <tuple>

#include "common/error.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "coordinator/operation.h"
#include "pipeline/pipeline_status.h"

/// What users read.
namespace moe {
namespace {

namespace fs = std::filesystem;
using google::protobuf::util::TimeUtil;

constexpr int kDefaultPage = 50;
constexpr int kMaxPage = 500;
constexpr int kMaxEvents = 500;
constexpr int64_t kLogChunk = 64 * 1024;

/// One entry of a list, sorted newest first, then by id; jobs by the id of their pipeline and their place in it.
template <typename Record>
struct Listed {
  int64_t created;
  std::string id;
  int place;
  const Record* record;
  bool operator<(const Listed& other) const {
    return created != other.created ? created > other.created : std::tie(id, place) < std::tie(other.id, other.place);
  }
};

std::string page_token(int64_t created, int place, const std::string& id) {
  return concat(created, ":", place, ":", id);
}

/// The page of `all` after `token` and the token of the next.
template <typename Record>
absl::StatusOr<std::pair<std::vector<Listed<Record>>, std::string>> page_of(std::vector<Listed<Record>> all,
                                                                            const v1::ListRequest& request) {
  const int size = request.has_page_size() ? request.page_size() : kDefaultPage;
  if (size < 1 || size > kMaxPage)
    return absl::InvalidArgumentError(concat("page_size ", size, " is not within 1..", kMaxPage));
  std::sort(all.begin(), all.end());
  auto first = all.begin();
  if (!request.page_token().empty()) {
    const std::string& token = request.page_token();
    char *after_created = nullptr, *after_place = nullptr;
    const int64_t created = std::strtoll(token.c_str(), &after_created, 10);
    const int64_t place = *after_created == ':' ? std::strtoll(after_created + 1, &after_place, 10) : 0;
    if (after_place == nullptr || *after_place != ':')
      return absl::InvalidArgumentError(concat("page_token '", token, "' is not one of ours"));
    first = std::upper_bound(all.begin(), all.end(),
                             Listed<Record>{created, after_place + 1, static_cast<int>(place), nullptr});
  }
  const auto last = first + std::min<ptrdiff_t>(size, all.end() - first);
  std::vector<Listed<Record>> page(first, last);
  return std::pair(std::move(page), last == all.end()
                                        ? std::string()
                                        : page_token((last - 1)->created, (last - 1)->place, (last - 1)->id));
}

/// Gangs keep the newest checkpoints only and remove the others. Where the root itself is out of sight nothing can be
/// told.
void drop_removed_checkpoints(const fs::path& data_root, v1::Job& job) {
  std::error_code error;
  if (job.checkpoints().empty() || !fs::is_directory(data_root, error)) return;
  auto& checkpoints = *job.mutable_checkpoints();
  const auto removed = [&](const v1::Checkpoint& checkpoint) {
    const fs::file_status manifest = fs::status(data_root / checkpoint.path() / "MANIFEST.json", error);
    return manifest.type() == fs::file_type::not_found;
  };
  checkpoints.erase(std::remove_if(checkpoints.begin(), checkpoints.end(), removed), checkpoints.end());
}

bool wanted(const google::protobuf::RepeatedPtrField<std::string>& states, const std::string& state) {
  return states.empty() || std::find(states.begin(), states.end(), state) != states.end();
}

}  // namespace

absl::StatusOr<v1::ListPipelinesResponse> Coordinator::list_pipelines(const v1::ListRequest& request) {
  const std::lock_guard lock(mutex_);
  std::vector<Listed<PipelineEntry>> all;
  for (const auto& [id, entry] : pipelines_) {
    if (wanted(request.states(), phase_of(entry)))
      all.push_back({TimeUtil::TimestampToMicroseconds(entry.record.created()), id, 0, &entry});
  }
  auto page = page_of(std::move(all), request);
  if (!page.ok()) return page.status();
  v1::ListPipelinesResponse response;
  for (const auto& listed : page->first) {
    v1::Pipeline full = full_pipeline(*listed.record);
    full.clear_spec();
    *response.add_pipelines() = std::move(full);
  }
  response.set_next_page_token(page->second);
  return response;
}

absl::StatusOr<v1::Pipeline> Coordinator::get_pipeline(const v1::GetRequest& request) {
  const std::lock_guard lock(mutex_);
  const Result<std::string> id = resolve_pipeline(request.id());
  if (!id.ok()) return id.status();
  return full_pipeline(pipelines_.at(*id));
}

absl::StatusOr<std::string> Coordinator::wanted_pipeline(const v1::ListRequest& request) const {
  if (request.pipeline_id().empty()) return std::string();
  return resolve_pipeline(request.pipeline_id());
}

absl::StatusOr<v1::ListJobsResponse> Coordinator::list_jobs(const v1::ListRequest& request) {
  const std::lock_guard lock(mutex_);
  const Result<std::string> pipeline = wanted_pipeline(request);
  if (!pipeline.ok()) return pipeline.status();
  std::vector<Listed<v1::Job>> all;
  for (const auto& [id, entry] : pipelines_) {
    if (!pipeline->empty() && id != *pipeline) continue;
    int place = 0;
    for (const StageState& stage : entry.engine.stages) {
      if (stage.gate) continue;
      const v1::Job& job = jobs_.at(id + "-" + stage.name);
      if (wanted(request.states(), state_name(job.state())))
        all.push_back({TimeUtil::TimestampToMicroseconds(job.created()), id, place, &job});
      ++place;
    }
  }
  auto page = page_of(std::move(all), request);
  if (!page.ok()) return page.status();
  v1::ListJobsResponse response;
  for (const auto& listed : page->first) {
    v1::Job* job = response.add_jobs();
    *job = *listed.record;
    job->clear_attempts();
    if (job->checkpoints_size() > 1) job->mutable_checkpoints()->DeleteSubrange(0, job->checkpoints_size() - 1);
    job->clear_stage();
    job->mutable_stage()->set_name(listed.record->stage().name());
  }
  response.set_next_page_token(page->second);
  return response;
}

absl::StatusOr<v1::Job> Coordinator::get_job(const v1::GetRequest& request) {
  v1::Job job;
  {
    const std::lock_guard lock(mutex_);
    notice_stall();
    const Result<std::string> id = resolve_job(request.id());
    if (!id.ok()) return id.status();
    job = full_job(jobs_.at(*id));
  }
  drop_removed_checkpoints(options_.data_root, job);
  return job;
}

absl::StatusOr<v1::ListGangsResponse> Coordinator::list_gangs(const v1::ListRequest&) {
  v1::ListGangsResponse response;
  for (v1::Gang& gang : view(0).gangs) *response.add_gangs() = std::move(gang);
  return response;
}

absl::StatusOr<v1::ListArtifactsResponse> Coordinator::list_artifacts(const v1::ListRequest& request) {
  const std::lock_guard lock(mutex_);
  const Result<std::string> pipeline = wanted_pipeline(request);
  if (!pipeline.ok()) return pipeline.status();
  std::vector<Listed<v1::Artifact>> all;
  for (const auto& [id, artifact] : artifacts_) {
    if (!pipeline->empty() && jobs_.at(artifact.job_id()).pipeline_id() != *pipeline) continue;
    all.push_back({TimeUtil::TimestampToMicroseconds(artifact.created()), id, 0, &artifact});
  }
  auto page = page_of(std::move(all), request);
  if (!page.ok()) return page.status();
  v1::ListArtifactsResponse response;
  for (const auto& listed : page->first) *response.add_artifacts() = *listed.record;
  response.set_next_page_token(page->second);
  return response;
}

absl::StatusOr<v1::WatchResponse> Coordinator::watch(const v1::WatchRequest& request) {
  const std::lock_guard lock(mutex_);
  std::string id;
  v1::WatchResponse response;
  if (!request.id().empty()) {
    Result<std::string> full = resolve(request.id());
    if (!full.ok()) return full.status();
    id = *full;
    if (const auto job = jobs_.find(id); job != jobs_.end()) {
      response.set_state(state_name(job->second.state()));
      response.set_has_ended(is_terminal(job->second.state()));
    } else {
      const PipelineEntry& entry = pipelines_.at(id);
      response.set_state(phase_of(entry));
      response.set_has_ended(is_terminal(entry.engine.phase));
    }
  }
  if (request.after_revision() > 0 && !events_.empty() && request.after_revision() < events_.front().revision() - 1) {
    return absl::OutOfRangeError(concat("events up to ", events_.front().revision() - 1,
                                        " are no longer kept; start again with after_revision 0"));
  }
  response.set_revision(std::max(request.after_revision(), revision_));
  const auto first = std::partition_point(events_.begin(), events_.end(), [&](const v1::Event& event) {
    return event.revision() <= request.after_revision();
  });
  for (auto event = first; event != events_.end(); ++event) {
    if (!id.empty() && event->job_id() != id && event->pipeline_id() != id) continue;
    if (response.events_size() == kMaxEvents) {
      response.set_revision(response.events(kMaxEvents - 1).revision());
      response.set_has_ended(false);
      break;
    }
    *response.add_events() = *event;
  }
  return response;
}

absl::StatusOr<v1::ReadLogsResponse> Coordinator::read_logs(const v1::ReadLogsRequest& request) {
  if (request.offset() < 0) return absl::InvalidArgumentError(concat("offset ", request.offset(), " is negative"));
  v1::ReadLogsResponse response;
  fs::path file;
  {
    const std::lock_guard lock(mutex_);
    const Result<std::string> id = resolve_job(request.job_id());
    if (!id.ok()) return id.status();
    const v1::Job& job = jobs_.at(*id);
    const int attempt = request.attempt() > 0 ? request.attempt() : job.attempt();
    if (attempt > job.attempt()) {
      return absl::NotFoundError(concat("job ", *id, " has no attempt ", attempt, "; the newest is ", job.attempt()));
    }
    response.set_attempt(attempt);
    response.set_attempt_ended(attempt < job.attempt() ||
                               (!is_leased(job.state()) && (attempt > 0 || is_terminal(job.state()))));
    if (response.attempt_ended() && attempt == job.attempt() && is_terminal(job.state()))
      response.set_terminal_state(state_name(job.state()));
    file = JobFolder(options_.data_root, *id)
               .log_path(attempt, request.has_rank() ? std::optional<int>(request.rank()) : std::nullopt);
  }
  response.set_next_offset(request.offset());
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (in) {
    const int64_t size = in.tellg();
    const int64_t length = std::clamp<int64_t>(size - request.offset(), 0, kLogChunk);
    std::string bytes(static_cast<size_t>(length), '\0');
    in.seekg(request.offset());
    in.read(bytes.data(), length);
    response.set_data(std::move(bytes));
    response.set_next_offset(request.offset() + length);
    if (response.next_offset() < size) {
      response.set_attempt_ended(false);
      response.clear_terminal_state();
    }
  } else if (request.has_rank() && response.attempt() > 0) {
    return absl::NotFoundError(
        concat("attempt ", response.attempt(), " of job ", request.job_id(), " has no log of rank ", request.rank()));
  }
  return response;
}

absl::StatusOr<v1::QueryMetricsResponse> Coordinator::query_metrics(const v1::QueryMetricsRequest& request) {
  const std::lock_guard lock(mutex_);
  const Result<std::string> id = resolve_job(request.job_id());
  if (!id.ok()) return id.status();
  v1::QueryMetricsResponse response;
  const auto points = points_.find(*id);
  if (points == points_.end()) return response;
  for (auto point = points->second.upper_bound(request.after_step()); point != points->second.end(); ++point) {
    v1::MetricPoint kept;
    kept.set_step(point->first);
    for (const auto& [name, value] : point->second.values()) {
      if (wanted(request.names(), name)) (*kept.mutable_values())[name] = value;
    }
    if (!kept.values().empty()) *response.add_points() = std::move(kept);
  }
  return response;
}

}  // namespace moe
