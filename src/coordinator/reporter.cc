#include "coordinator/reporter.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "report/run_summary.h"

namespace moe {
namespace {

/// Longest wait for a change, so that the end of the program is seen; and the pause after one, for what changes with
/// it.
constexpr std::chrono::milliseconds kWait{500};
constexpr std::chrono::milliseconds kPause{20};
/// Written after the others.
constexpr char kLastFile[] = "summary.txt";

/// Whether the pipeline has ended and its files tell its end.
bool was_written_after(const std::filesystem::path& file, const v1::Pipeline& pipeline) {
  std::error_code error;
  const auto written = std::filesystem::last_write_time(file, error);
  if (error || !pipeline.has_finished()) return false;
  const auto since_epoch = std::chrono::file_clock::to_sys(written).time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since_epoch).count() > pipeline.finished().seconds();
}

}  // namespace

Reporter::Reporter(Coordinator& coordinator, std::filesystem::path data_root)
    : coordinator_(coordinator), data_root_(std::move(data_root)), thread_([this] { run(); }) {}

Reporter::~Reporter() {
  closing_ = true;
  thread_.join();
}

void Reporter::run() {
  bool is_start = true;  // when every pipeline counts as changed
  while (!closing_) {
    write_all(is_start, kWait);
    is_start = false;
    std::this_thread::sleep_for(kPause);
  }
  write_all(is_start, std::chrono::milliseconds(0));
}

void Reporter::write_all(bool is_start, std::chrono::milliseconds wait) {
  for (const std::string& id : coordinator_.take_changed_pipelines(wait)) {
    try {
      write(id, is_start);
    } catch (const std::exception& error) {
      log_warning(concat("event=summary_not_written pipeline=", id, " reason=\"", error.what(), "\""));
    }
  }
}

void Reporter::write(const std::string& pipeline_id, bool only_if_stale) {
  v1::GetRequest request;
  request.set_id(pipeline_id);
  const absl::StatusOr<v1::Pipeline> pipeline = coordinator_.get_pipeline(request);
  if (!pipeline.ok()) return;
  if (only_if_stale && was_written_after(data_root_ / pipeline_id / kLastFile, *pipeline)) return;
  std::vector<nlohmann::json> records;
  for (const v1::StageState& stage : pipeline->stages()) {
    if (stage.job_state() != v1::JOB_STATE_SUCCEEDED) continue;
    request.set_id(stage.job_id());
    const absl::StatusOr<v1::Job> job = coordinator_.get_job(request);
    if (job.ok()) records.push_back(nlohmann::json::parse(read_file(data_root_ / job->output_path() / "STAGE.json")));
  }
  if (records.empty() && pipeline->phase() == "RUNNING") return;
  make_directories(data_root_ / pipeline_id);
  const std::filesystem::path folder = data_root_ / pipeline_id;
  const std::string table =
      write_run_summary(folder, pipeline->spec(), *pipeline, records,
                        [&](const std::string& stage) { return data_root_ / (pipeline_id + "-" + stage); });
  write_file_atomically(folder / kLastFile, table);
}

}  // namespace moe
