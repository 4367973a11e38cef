#include <CLI/App.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "pipeline/defaults.h"
#include "pipeline/spec.h"
#include "pipeline/warnings.h"
#include "worker/commands.h"
#include "worker/devices.h"
#include "worker/known_names.h"
#include "worker/model_check.h"
#include "worker/pipeline_runner.h"

namespace moe {
namespace {

struct RunOptions {
  std::string file;
  std::string out;
  std::shared_ptr<DeviceOptions> devices;
  std::shared_ptr<double> timeout;  ///< of collectives, in seconds
  std::vector<std::string> assignments;
  std::vector<std::string> approved;
  bool fresh = false;
};

void throw_if_any(const Problems& problems) {
  if (!problems.empty()) throw InvalidArgument(to_text(problems));
}

/// Every stage must be able to run on the ranks that there are: all problems at once.
void check_ranks(const v1::PipelineSpec& spec, int ranks, const std::string& file) {
  std::string problems;
  for (const v1::Stage& stage : spec.stages()) {
    const v1::GangSpec& gang = stage.gang();
    if (gang.ranks() > 0 && gang.ranks() != ranks) {
      problems += concat("\n", file, ": stage ", stage.name(), ": gang.ranks is ", gang.ranks(), " and this run has ",
                         ranks, "; start it with `mpirun -n ", gang.ranks(), "` or add --set stages.", stage.name(),
                         ".gang.ranks=", ranks);
    } else if (gang.expert_parallel() > 0 && ranks % gang.expert_parallel() != 0) {
      problems += concat("\n", file, ": stage ", stage.name(), ": gang.expert_parallel ", gang.expert_parallel(),
                         " does not divide the ", ranks, " ranks of this run; use a divisor of ", ranks);
    }
  }
  if (!problems.empty()) throw InvalidArgument("the pipeline cannot run here:" + problems);
}

bool uses_cuda(const v1::PipelineSpec& spec) {
  return std::any_of(spec.stages().begin(), spec.stages().end(),
                     [](const v1::Stage& stage) { return stage.gang().device() == "cuda"; });
}

/// deploy/gang.sh starts the same flags again after the gang ended: what --fresh began is to be gone on with then.
std::string launcher() {
  const char* id = std::getenv("MOE_LAUNCHER_ID");
  return id == nullptr ? "" : xxh3_hex(id);  // whatever its length and bytes: only equality is asked
}

/// Before the first stage. Ranks are left out: the trainer, who knows how many there are, tells of those without rows.
void warn(v1::PipelineSpec spec, const std::string& file) {
  for (v1::Stage& stage : *spec.mutable_stages()) stage.mutable_gang()->clear_ranks();
  for (const std::string& warning : warnings_of(spec))
    log_warning(concat("event=pipeline_warning file=", file, " reason=\"", warning, "\""));
}

ExitCode run(const RunOptions& options, Communicator& world) {
  const std::string bytes = agree_on_result(world, "read " + options.file, [&] {
    const LoadedPipeline loaded =
        load_pipeline(read_file(options.file), options.file, options.assignments, known_names());
    throw_if_any(loaded.problems);
    const v1::PipelineSpec spec = effective_spec(loaded.spec);
    check_ranks(spec, world.size(), options.file);
    throw_if_any(model_problems(spec, loaded.sources));
    warn(spec, options.file);
    return spec.SerializeAsString();
  });
  v1::PipelineSpec spec;
  MOE_CHECK(spec.ParseFromString(bytes), "the pipeline did not survive the broadcast");
  OpenedDevices devices;
  if (uses_cuda(spec)) devices = open_devices(*options.devices, world, to_milliseconds(*options.timeout));
  const RunSettings settings{.root = options.out.empty() ? "runs/" + spec.name() : options.out,
                             .approved_gates = {options.approved.begin(), options.approved.end()},
                             .fresh = options.fresh,
                             .launcher = launcher()};
  return run_pipeline(spec, settings, devices.world ? *devices.world : world);
}

}  // namespace

std::shared_ptr<double> add_collective_timeout(CLI::App& command) {
  auto seconds = std::make_shared<double>(std::chrono::duration<double>(kDefaultCollectiveTimeout).count());
  command
      .add_option("--collective-timeout", *seconds,
                  "Seconds that ranks wait for one that computes as they do, before the gang ends with 86. What one "
                  "rank does alone (hashing, reading, writing) does not count: it is waited for up to 24 h, with a "
                  "warning that names the ranks each time that these seconds are over")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86400.0));
  return seconds;
}

Subcommand add_run_command(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "Run a job or a whole pipeline, alone or under mpirun");
  command->add_option("FILE", options->file, "Pipeline or job (YAML; proto/moe/v1/*.proto is its schema)")->required();
  command->add_option("--out", options->out, "Folder for all results (default runs/<name of the pipeline>)");
  command
      ->add_option("--set", options->assignments,
                   "Change a value of the file: path=value, e.g. stages.stage1.train.steps=50")
      ->take_all()
      ->expected(1);
  command->add_option("--approve", options->approved, "Let this gate pass although it holds")->take_all()->expected(1);
  command->add_flag("--fresh", options->fresh,
                    "Run finished stages again and train from step 1; deletes nothing. Started again, with or without "
                    "it, by the same launcher (MOE_LAUNCHER_ID), or without it by hand, the run goes on with what it "
                    "began");
  options->devices = add_device_options(*command);
  options->timeout = add_collective_timeout(*command);
  command->footer(
      "A finished stage is not run again as long as what decides its result is the same; an interrupted training goes "
      "on at its\n"
      "last checkpoint, with more steps too, and stops before it begins anew where another configuration made that "
      "checkpoint:\n"
      "docs/resume.md has the rule for every field. Leaves summary.json, report.html and metrics.jsonl in the output "
      "folder.\n\n"
      "Examples:\n"
      "  moe-worker run configs/base-7m_independent-random_cpu.yaml --set defaults.gang.ranks=1 --set "
      "defaults.gang.expert_parallel=1\n"
      "  bash deploy/gang.sh --ranks 2 --once -- moe-worker run pipeline.yaml --out runs/a --set "
      "stages.stage1.train.steps=50\n"
      "  moe-worker run pipeline.yaml --out runs/a --approve recovered");
  return {command, [options](Communicator& world) { return run(*options, world); }, /*uses_all_ranks=*/true,
          options->timeout};
}

}  // namespace moe
