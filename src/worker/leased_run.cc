#include "worker/leased_run.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/model_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "common/log.h"
#include "model/model_config.h"
#include "pipeline/configuration.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"
#include "worker/earlier_work.h"
#include "worker/job_monitor.h"
#include "worker/jobs.h"
#include "worker/preflight.h"
#include "worker/stage_inputs.h"
#include "worker/stop_signal.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::chrono::seconds kLogProgressEvery{2};

/// The one stage of the lease as a pipeline, its models under the references that it writes.
v1::PipelineSpec spec_of(const v1::Lease& lease, const fs::path& data_root) {
  v1::PipelineSpec spec;
  for (const auto& [reference, path] : model_paths(lease, data_root))
    (*spec.mutable_inputs())[reference].set_path(path.string());
  *spec.add_stages() = lease.stage();
  // Models of other stages are none of this job's business, and may be gone.
  const std::vector<std::string> used = model_references(lease.stage());
  for (const auto& [reference, model] : lease.models()) {
    if (std::find(used.begin(), used.end(), reference) == used.end()) spec.mutable_inputs()->erase(reference);
  }
  return spec;
}

/// A leased job: progress to the coordinator and, now and then, to the log; numbers to the metrics page.
class LeaseMonitor final : public JobMonitor {
 public:
  LeaseMonitor(const Configuration& configuration, const LeasedRun& run)
      : JobMonitor(configuration, run.world), run_(run) {}

  void record(const StepRecord& record) override {
    run_.metrics.train_step(record);
    if (run_.agent != nullptr) run_.agent->add_step(record);
    JobMonitor::record(record);
  }
  bool should_stop() override { return stop_signalled() || (run_.agent != nullptr && run_.agent->should_stop()); }
  void save_failed() override { run_.metrics.checkpoint(0, "write", 0, /*ok=*/false); }

 private:
  void show(const ProgressUpdate& update) override {
    run_.metrics.units(update.step, update.steps);
    if (run_.agent == nullptr) return;
    run_.agent->set_progress(update);
    const auto now = std::chrono::steady_clock::now();
    if (now - last_shown_ < kLogProgressEvery && update.step < update.steps) return;
    last_shown_ = now;
    std::string line =
        concat("event=progress stage=\"", update.stage, "\" ", update.unit, "=", update.step, "/", update.steps);
    if (update.loss > 0) line += concat(" loss=", update.loss);
    if (update.tokens_per_second > 0)
      line += concat(" tokens_per_second=", static_cast<int64_t>(update.tokens_per_second));
    log_info(line);
  }

  const LeasedRun& run_;
  std::chrono::steady_clock::time_point last_shown_;
};

/// One leased job on one rank.
class LeasedJob {
 public:
  explicit LeasedJob(const LeasedRun& run)
      : run_(run), lease_(run.lease), folder_(run.data_root, lease_.job_id()), name_(lease_.stage().name()) {}

  v1::CompleteAttemptRequest execute() {
    open_logs();
    run_.metrics.begin_job(lease_.job_id(), name_, stage_kind(lease_.stage()));
    const auto started = std::chrono::steady_clock::now();
    v1::CompleteAttemptRequest end;
    try {
      end = work(started);
    } catch (const std::exception& error) {
      log_error(concat("event=attempt_failed job=", lease_.job_id(), " attempt=", lease_.attempt(), " reason=\"",
                       error.what(), "\""));
      run_.metrics.end_job();
      // All ranks threw this at the same point, or there is only one: the gang can go on.
      if (dynamic_cast<const AgreedError*>(&error) == nullptr && run_.world.size() > 1) throw;
      if (exit_code_for(error) == ExitCode::kHang || exit_code_for(error) == ExitCode::kHardware ||
          exit_code_for(error) == ExitCode::kFenced)
        throw;
      return failed_attempt(error);
    }
    run_.metrics.end_job();
    return end;
  }

 private:
  v1::CompleteAttemptRequest work(std::chrono::steady_clock::time_point started) {
    const json begun = json::parse(agree_on_result(run_.world, "begin job " + lease_.job_id(), [&] {
      inputs_ = std::make_unique<StageInputs>(spec_of(lease_, run_.data_root));
      expect_experts();
      const Configuration now = inputs_->configuration_of(lease_.stage());
      json record = to_json(now);
      folder_.record_begun(lease_.attempt(), record);
      log_info(concat("event=attempt_started job=", lease_.job_id(), " attempt=", lease_.attempt(),
                      " ranks=", run_.world.size()));
      std::vector<std::string> committed;
      for (const v1::Checkpoint& checkpoint : lease_.checkpoints())
        committed.push_back(fs::path(checkpoint.path()).filename().string());
      record["resumable"] = resumable_of(folder_, committed, now);
      return record.dump();
    }));
    const Configuration configuration{lease_.stage(), begun["inputs"].get<std::map<std::string, std::string>>()};
    LeaseMonitor monitor(configuration, run_);
    const JobContext context{
        .stage = lease_.stage(),
        .job_path = folder_.path(),
        .attempt_path = folder_.attempt_path(lease_.attempt()),
        .output_path = folder_.output_path(lease_.attempt()),
        .calibrations_path = calibrations_path(run_.data_root),
        .evaluation_files = {lease_.evaluation_files().begin(), lease_.evaluation_files().end()},
        .attempt = lease_.attempt(),
        .configuration = configuration,
        .model_path =
            [this](const std::string& reference) {
              return fs::path(agree_on_result(run_.world, "find model " + reference,
                                              [&] { return inputs_->model_path(reference).string(); }));
            },
        .world = run_.world,
        .monitor = monitor,
        .checkpoints = authority(begun["resumable"].get<std::vector<std::string>>(), configuration)};
    const std::optional<JobOutcome> outcome = run_job(context);
    v1::CompleteAttemptRequest end;
    if (!outcome) {
      end.set_outcome(v1::ATTEMPT_OUTCOME_RELEASED);
      end.set_exit_code(static_cast<int>(ExitCode::kReleased));
      end.set_message("stopped between two units of work, as asked");
      log_info(concat("event=attempt_released job=", lease_.job_id()));
      return end;
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    agree(run_.world, "record job " + lease_.job_id(), [&] {
      if (run_.world.rank() != 0) return;
      folder_.record_finished(lease_.attempt(), record_of(context, *outcome, seconds));
    });
    run_.metrics.result(outcome->metrics);
    end.set_outcome(v1::ATTEMPT_OUTCOME_SUCCEEDED);
    end.set_output_path(fs::relative(folder_.output_path(lease_.attempt()), run_.data_root).string());
    end.set_output_digest(digest_of(configuration, outcome->history));
    for (const auto& [name, value] : outcome->metrics) (*end.mutable_metrics())[name] = value;
    log_info(concat("event=attempt_succeeded job=", lease_.job_id(), " seconds=", seconds));
    return end;
  }

  /// Every expert is counted from 0, before the first step adds to it.
  void expect_experts() {
    const JobKind* kind = kind_of(lease_.stage());
    if (kind == nullptr || !kind->has_steps) return;
    const std::string trained = model_references(lease_.stage()).front();
    const ModelConfig config = ModelDirectory(inputs_->model_path(trained)).config();
    if (!config.moe) return;
    std::vector<int64_t> experts;
    for (const int64_t width : config.moe->expert_widths) experts.push_back(width > 0 ? config.moe->num_experts : 0);
    run_.metrics.expect_experts(experts);
  }

  void open_logs() {
    const int rank = run_.world.rank();
    rank_log_ = std::make_unique<LogFile>(folder_.log_path(lease_.attempt(), rank), LogLevel::kInfo);
    gang_log_ = std::make_unique<LogFile>(folder_.log_path(lease_.attempt(), std::nullopt),
                                          rank == 0 ? LogLevel::kInfo : LogLevel::kWarning);
  }

  CheckpointAuthority authority(const std::vector<std::string>& resumable, const Configuration& configuration) {
    CheckpointAuthority authority;
    authority.resumable = resumable;
    authority.is_ours = [configuration](const json& scalars) {
      return may_go_on_from(scalars, configuration, /*first_attempt=*/0);
    };
    authority.commit = [this](const SavedCheckpoint& saved) {
      const auto begun = std::chrono::steady_clock::now();
      const bool committed = run_.agent->commit(saved);
      run_.metrics.checkpoint(std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count(), "commit",
                              saved.bytes, committed);
      return committed;
    };
    return authority;
  }

  const LeasedRun& run_;
  const v1::Lease& lease_;
  const JobFolder folder_;
  const std::string name_;
  std::unique_ptr<LogFile> rank_log_, gang_log_;
  std::unique_ptr<StageInputs> inputs_;  ///< rank 0
};

}  // namespace

v1::CompleteAttemptRequest run_leased(const LeasedRun& run) {
  return LeasedJob(run).execute();
}

v1::CompleteAttemptRequest failed_attempt(const std::exception& error) {
  const ExitCode code = exit_code_for(error);
  const bool is_permanent = code == ExitCode::kUsage || code == ExitCode::kBadInput || code == ExitCode::kDiverged ||
                            code == ExitCode::kNoReadableCheckpoint;
  v1::CompleteAttemptRequest end;
  end.set_outcome(is_permanent ? v1::ATTEMPT_OUTCOME_PERMANENT : v1::ATTEMPT_OUTCOME_RETRYABLE);
  end.set_exit_code(static_cast<int>(code));
  end.set_message(message_of(error));
  return end;
}

v1::CompleteAttemptRequest refused_attempt(const v1::Refusal& refusal) {
  const bool is_jobs = refusal.kind() == v1::REFUSAL_KIND_JOB;
  const bool is_input = is_jobs || refusal.kind() == v1::REFUSAL_KIND_INPUTS;
  v1::CompleteAttemptRequest end;
  end.set_outcome(is_jobs ? v1::ATTEMPT_OUTCOME_PERMANENT : v1::ATTEMPT_OUTCOME_RETRYABLE);
  end.set_exit_code(static_cast<int>(is_input ? ExitCode::kBadInput : ExitCode::kStorage));
  end.set_message(text_of(refusal));
  *end.mutable_refusal() = refusal;
  return end;
}

}  // namespace moe
