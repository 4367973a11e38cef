#include "worker/pipeline_runner.h"

#include <chrono>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "pipeline/advance.h"
#include "pipeline/configuration.h"
#include "pipeline/inputs.h"
#include "pipeline/pipeline_status.h"
#include "report/run_summary.h"
#include "worker/earlier_work.h"
#include "worker/job_monitor.h"
#include "worker/jobs.h"
#include "worker/progress.h"
#include "worker/stage_inputs.h"
#include "worker/stop_signal.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A stage of a run without a coordinator: progress on a line, and SIGUSR1 asks to stop.
class RunMonitor final : public JobMonitor {
 public:
  RunMonitor(const Configuration& configuration, Communicator& world, ProgressLine& line)
      : JobMonitor(configuration, world), line_(line) {}

  bool should_stop() override { return stop_signalled(); }

 private:
  void show(const ProgressUpdate& update) override { line_.update(update); }

  ProgressLine& line_;
};

/// One run. Every rank drives the same engine with the same events; what only rank 0 knows (files, attempts) it shares.
class Run {
 public:
  Run(const v1::PipelineSpec& spec, const RunSettings& settings, Communicator& world)
      : spec_(spec),
        settings_(settings),
        world_(world),
        progress_(world.rank() == 0),
        state_(make_pipeline_state(spec)) {}

  ExitCode run() {
    agree(world_, "open the output folder", [this] {
      if (world_.rank() != 0) return;
      inputs_ = std::make_unique<StageInputs>(spec_);
      make_directories(settings_.root);
      lock_ = std::make_unique<FileLock>(settings_.root / ".lock");
      if (settings_.fresh) begin_all_afresh();
    });
    std::deque<Action> actions;
    const auto feed = [&](const Event& event) {
      for (Action& action : advance(state_, event)) actions.push_back(std::move(action));
    };
    feed(Start{});
    while (!actions.empty()) {
      const Action action = std::move(actions.front());
      actions.pop_front();
      if (const auto* note = std::get_if<GateNote>(&action)) {
        progress_.message(note->message);
      } else if (const auto* hold = std::get_if<Hold>(&action)) {
        progress_.message(hold->message);
        if (settings_.approved_gates.contains(hold->gate)) {
          feed(Approve{hold->gate});
          write_summary();  // which said HELD
        } else {
          progress_.message(concat("to go on: ", same_command(), " with --approve ", hold->gate));
        }
      } else if (const auto* start = std::get_if<StartStage>(&action)) {
        const std::optional<Event> event = run_stage(start->name);
        if (!event) return release(start->name);
        feed(*event);
        write_summary();
      }
    }
    const std::string table = write_summary();
    // All ranks leave in the same way if it cannot be printed; the results are in their files by now.
    agree(world_, "print the summary", [&] {
      if (world_.rank() == 0) std::cout << table << std::flush;
    });
    if (state_.phase == PipelinePhase::kSucceeded) return ExitCode::kDone;
    progress_.message("pipeline " + spec_.name() + ": " + to_string(state_.phase) +
                      (state_.reason.empty() ? "" : ": " + state_.reason));
    return ExitCode::kGate;
  }

 private:
  ExitCode release(const std::string& stage) {
    write_summary();
    progress_.message(stage + ": stopped after a checkpoint, as asked; " + same_command() + " goes on from there");
    return ExitCode::kReleased;
  }

  /// By hand, --fresh would begin anew once more.
  std::string same_command() const { return settings_.fresh ? "the same command without --fresh" : "the same command"; }

  const v1::Stage& stage_named(const std::string& name) const {
    for (const v1::Stage& stage : spec_.stages()) {
      if (stage.name() == name) return stage;
    }
    throw Internal("no stage named '" + name + "'");
  }

  /// Rank 0: of every stage, before the first one runs, since the run may be killed in any of them. A stage run anew
  /// gives what its configuration says, so that those behind it are known too.
  void begin_all_afresh() {
    StageInputs inputs = *inputs_;
    bool is_asked_anew = false;
    for (const v1::Stage& stage : spec_.stages()) {
      if (stage.has_gate()) continue;
      const Configuration configuration = inputs.configuration_of(stage);
      is_asked_anew |= begin_afresh(JobFolder(settings_.root, stage.name()), configuration, settings_.launcher);
      inputs.add_output(stage.name(), {}, digest_of(configuration));
    }
    progress_.message(is_asked_anew ? "--fresh is recorded; without it the same command goes on with what begins now"
                                    : "--fresh counted when this launcher asked for it first; what began then goes on");
  }

  /// Rank 0: where and with what the stage will run, or its record if it is done already.
  json begin_stage(const v1::Stage& stage) {
    const JobFolder folder(settings_.root, stage.name());
    const Configuration configuration = inputs_->configuration_of(stage);
    const EarlierWork earlier = earlier_work(folder, configuration);
    if (earlier.record) return {{"record", *earlier.record}};
    const int attempt = folder.next_attempt();
    json begun = to_json(configuration);
    folder.record_begun(attempt, begun);
    begun.update({{"attempt", attempt},
                  {"resumable", earlier.resumable},
                  {"first_attempt", earlier.first_attempt},
                  {"note", earlier.note}});
    return begun;
  }

  /// nullopt: the job was asked to stop.
  std::optional<Event> run_stage(const std::string& name) {
    const v1::Stage& stage = stage_named(name);
    const json begun = json::parse(agree_on_result(world_, "begin stage " + name, [&] {
      // A folder's name in the note may be no UTF-8.
      return begin_stage(stage).dump(-1, ' ', false, json::error_handler_t::replace);
    }));
    if (begun.contains("record")) {
      progress_.message(name + ": finished before, not run again (--fresh does)");
      return finish_stage(stage, begun["record"], /*already_done=*/true);
    }
    const int attempt = begun["attempt"];
    const JobFolder folder(settings_.root, name);
    const auto started = std::chrono::steady_clock::now();
    progress_.message(name + ": started" + (attempt > 1 ? " (attempt " + std::to_string(attempt) + ")" : ""));
    if (const std::string note = begun["note"]; !note.empty()) progress_.message(name + ": " + note);
    const Configuration configuration{stage, begun["inputs"].get<std::map<std::string, std::string>>()};
    advance(state_, StageStarted{name});
    RunMonitor monitor(configuration, world_, progress_);
    try {
      const JobContext context{
          .stage = stage,
          .job_path = folder.path(),
          .attempt_path = folder.attempt_path(attempt),
          .output_path = folder.output_path(attempt),
          .calibrations_path = calibrations_path(settings_.root),
          .evaluation_files = evaluation_files(spec_),
          .attempt = attempt,
          .first_attempt = begun["first_attempt"],
          .configuration = configuration,
          .model_path = [this](const std::string& reference) { return shared_model_path(reference); },
          .world = world_,
          .monitor = monitor,
          .checkpoints = {
              .resumable = begun["resumable"].get<std::vector<std::string>>(),
              .is_ours =
                  [&](const json& scalars) { return may_go_on_from(scalars, configuration, begun["first_attempt"]); },
              .commit = nullptr}};
      const std::optional<JobOutcome> outcome = run_job(context);
      if (!outcome) return std::nullopt;
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
      const json record = json::parse(agree_on_result(world_, "record stage " + name, [&] {
        const json made = record_of(context, *outcome, seconds);
        folder.record_finished(attempt, made);
        return made.dump();
      }));
      progress_.message(name + ": done in " + format_duration(seconds));
      return finish_stage(stage, record, /*already_done=*/false);
    } catch (const std::exception& error) {
      advance(state_, StageFailed{name, message_of(error), /*permanent=*/true});
      write_summary();
      throw;
    }
  }

  Event finish_stage(const v1::Stage& stage, const json& record, bool already_done) {
    const JobFolder folder(settings_.root, stage.name());
    if (inputs_) inputs_->add_output(stage.name(), folder.output_path(record["attempt"]), record["digest"]);
    records_.push_back(record);
    Metrics metrics;
    for (const auto& [name, value] : record["metrics"].items()) {
      if (value.is_number()) metrics[name] = value;
    }
    return StageSucceeded{stage.name(), metrics, already_done};
  }

  /// Only rank 0 keeps track of outputs.
  fs::path shared_model_path(const std::string& reference) {
    return agree_on_result(world_, "find model " + reference, [&] { return inputs_->model_path(reference).string(); });
  }

  std::string write_summary() {
    if (world_.rank() != 0) return "";
    v1::Pipeline status;
    to_proto(state_, status);
    return write_run_summary(settings_.root, spec_, status, records_,
                             [this](const std::string& stage) { return settings_.root / stage; });
  }

  const v1::PipelineSpec& spec_;
  const RunSettings& settings_;
  Communicator& world_;
  ProgressLine progress_;
  PipelineState state_;
  std::unique_ptr<StageInputs> inputs_;
  std::unique_ptr<FileLock> lock_;
  std::vector<json> records_;
};

}  // namespace

ExitCode run_pipeline(const v1::PipelineSpec& effective, const RunSettings& settings, Communicator& world) {
  return Run(effective, settings, world).run();
}

}  // namespace moe
