#include "coordinator/http_pages.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "common/utc_time.h"
#include "pipeline/kinds/kinds.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using google::protobuf::util::TimeUtil;

/// There is one queue.
constexpr char kQueue[] = "default";
/// Series of a job that ended are exposed this long.
constexpr double kKeepSeconds = 3600;

double seconds(const google::protobuf::Timestamp& stamp) {
  return static_cast<double>(TimeUtil::TimestampToMicroseconds(stamp)) / 1e6;
}

double wall_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

int64_t size_of(const fs::path& file) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  return error ? 0 : static_cast<int64_t>(size);
}

}  // namespace

CoordinatorSnapshot snapshot_of(const Coordinator::View& view, double now) {
  CoordinatorSnapshot snapshot;
  std::map<std::string, v1::Pipeline const*> pipelines;
  for (const v1::Pipeline& pipeline : view.pipelines) pipelines[pipeline.id()] = &pipeline;
  for (const v1::Job& job : view.jobs) {
    CoordinatorSnapshot::Job row{.job_id = job.id(),
                                 .name = job.stage().name(),
                                 .kind = job.kind(),
                                 .queue = kQueue,
                                 .user = pipelines.at(job.pipeline_id())->user(),
                                 .pipeline_id = job.pipeline_id(),
                                 .state = job.state(),
                                 .last_checkpoint_timestamp = std::nullopt,
                                 .last_checkpoint_step = std::nullopt,
                                 .has_ended = is_terminal(job.state())};
    if (!job.checkpoints().empty()) {
      const v1::Checkpoint& last = job.checkpoints(job.checkpoints_size() - 1);
      row.last_checkpoint_timestamp = seconds(last.committed());
      row.last_checkpoint_step = last.step();
    } else if (const JobKind* kind = kind_named(job.kind()); kind != nullptr && kind->has_steps && job.has_started()) {
      row.last_checkpoint_timestamp = seconds(job.started());
    }
    snapshot.jobs.push_back(std::move(row));
  }
  for (const v1::Gang& gang : view.gangs)
    snapshot.gangs.push_back({gang.id(), gang.job_id(), seconds(gang.last_heard()), gang.state()});
  for (const v1::Pipeline& pipeline : view.pipelines) {
    if (pipeline.phase() == "SUCCEEDED" || pipeline.phase() == "FAILED" || pipeline.phase() == "CANCELED")
      continue;  // nobody waits for its gates
    std::string stage;
    for (const v1::StageState& state : pipeline.stages()) {
      if (!state.is_gate()) {
        stage = state.name();
      } else if (state.status() != "PENDING") {
        snapshot.gates.push_back(
            {pipeline.id(), stage, state.name(), state.status() != "HELD" && state.status() != "FAILED"});
      }
    }
  }
  const double oldest_wait = view.oldest_queued ? now - static_cast<double>(*view.oldest_queued) / 1e6 : 0;
  snapshot.queues.push_back({.queue = kQueue, .jobs = view.living_jobs, .oldest_wait_seconds = oldest_wait});
  return snapshot;
}

StatusPage status_page_of(Coordinator::View view, const std::string& version, const std::string& now) {
  StatusPage status;
  status.version = version;
  status.now = now;
  status.living_pipelines = std::move(view.living_pipelines);
  status.living_jobs = std::move(view.living_jobs);
  status.ended_pipelines = view.ended_pipelines;
  status.pipelines = std::move(view.pipelines);
  status.jobs = std::move(view.jobs);
  status.loss = std::move(view.loss);
  status.gangs = std::move(view.gangs);
  return status;
}

std::string discovery_document(const std::vector<v1::Gang>& gangs) {
  nlohmann::json document = nlohmann::json::array();
  for (const v1::Gang& gang : gangs) {
    if (gang.state() == "lost") continue;
    for (const v1::GangRank& rank : gang.ranks()) {
      if (rank.metrics_endpoint().empty()) continue;
      char number[16];
      std::snprintf(number, sizeof number, "%04d", rank.rank());
      document.push_back({{"targets", {rank.metrics_endpoint()}},
                          {"labels", {{"gang_id", gang.id()}, {"rank", number}, {"node", rank.node()}}}});
    }
  }
  return document.dump();
}

void add_pages(HttpServer& server, Coordinator& coordinator, MetricsPage& page, CoordinatorMetrics& metrics,
               const fs::path& store_file) {
  server.get("/", [&coordinator](const HttpRequest&) {
    const StatusPage status = status_page_of(coordinator.view(kStatusPagePipelines),
                                             coordinator.server_info().version(), utc_text(std::time(nullptr)));
    return HttpResponse{200, "text/html; charset=utf-8", render_status_page(status)};
  });
  server.get("/sd/workers", [&coordinator](const HttpRequest&) {
    return HttpResponse{200, "application/json", discovery_document(coordinator.view(0).gangs)};
  });
  server.get("/metrics", [&coordinator, &page, &metrics, store_file](const HttpRequest&) {
    const double now = wall_now();
    CoordinatorSnapshot snapshot = snapshot_of(
        coordinator.work(CoordinatorMetrics::kMaxJobs, static_cast<int64_t>((now - kKeepSeconds) * 1e6)), now);
    snapshot.store_bytes = {{"db", size_of(store_file)}, {"wal", size_of(store_file.string() + "-wal")}};
    metrics.set(snapshot);
    return page.response();
  });
}

}  // namespace moe
