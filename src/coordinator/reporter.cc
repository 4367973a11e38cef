#include "coordinator/reporter.h"

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "report/run_summary.h"

namespace moe {
namespace {

constexpr std::chrono::milliseconds kEvery{500};

}  // namespace

Reporter::Reporter(Coordinator& coordinator, std::filesystem::path data_root)
    : coordinator_(coordinator), data_root_(std::move(data_root)), thread_([this] { run(); }) {}

Reporter::~Reporter() {
  closing_ = true;
  thread_.join();
}

void Reporter::run() {
  while (!closing_) {
    write_all();
    std::this_thread::sleep_for(kEvery);
  }
  write_all();
}

void Reporter::write_all() {
  for (const std::string& id : coordinator_.take_changed_pipelines()) {
    try {
      write(id);
    } catch (const std::exception& error) {
      log_warning(concat("event=summary_not_written pipeline=", id, " reason=\"", error.what(), "\""));
    }
  }
}

void Reporter::write(const std::string& pipeline_id) {
  v1::GetRequest request;
  request.set_id(pipeline_id);
  const absl::StatusOr<v1::Pipeline> pipeline = coordinator_.get_pipeline(request);
  if (!pipeline.ok()) return;
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
  const std::string table = write_run_summary(folder, pipeline->spec(), *pipeline, records,
                                              [&](const std::string& stage) { return data_root_ / (pipeline_id + "-" + stage); });
  write_file_atomically(folder / "summary.txt", table);
}

}  // namespace moe
