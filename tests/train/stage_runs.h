#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "common/job_folder.h"
#include "pipeline/defaults.h"
#include "train/train_fixture.h"
#include "worker/earlier_work.h"
#include "worker/stage_inputs.h"

namespace moe::testing {

/// Files below a folder with their digests.
inline std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  if (!std::filesystem::exists(folder)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file())
      files[std::filesystem::relative(entry.path(), folder)] = xxh3_hex_of_file(entry.path());
  }
  return files;
}

/// One stage, run as `moe-worker run` runs it, without processes: what is there is judged, then trained.
class StageRuns : public ::testing::Test {
 protected:
  StageRuns() : training_("float64") {
    stage_.set_name("train");
    stage_.set_seed(3);
    stage_.mutable_gang()->set_ranks(1);
    stage_.mutable_gang()->set_expert_parallel(1);
    stage_.mutable_gang()->set_dtype("float64");
    training_.spec.set_input(training_.folder() / "model");
    training_.spec.set_template_("plain_markers");
    v1::DataSource* held = training_.spec.add_validation();
    held->set_path(training_.folder() / "held.jsonl");
    training_.spec.set_validate_every(4);
    *stage_.mutable_train() = training_.spec;
    stage_ = effective(stage_);
  }

  static v1::Stage effective(const v1::Stage& stage) {
    v1::PipelineSpec spec;
    *spec.add_stages() = stage;
    return effective_spec(spec).stages(0);
  }

  Configuration configuration_of(const v1::Stage& stage) const {
    v1::PipelineSpec spec;
    *spec.add_stages() = stage;
    return StageInputs(spec).configuration_of(stage);
  }

  struct Ran {
    EarlierWork earlier;
    std::vector<int64_t> steps;  ///< that this run itself made
    std::string history;         ///< of a finished one
    TinyTraining::Options options;

    int64_t first_step() const { return steps.empty() ? 0 : steps.front(); }  ///< 0: none was made
  };

  /// Throws what the run throws. `kill_at`: 0, to its end.
  Ran run(const v1::Stage& stage, const std::string& job, bool fresh = false, int64_t kill_at = 0,
          const std::function<void()>& before_training = {}) {
    Ran ran;
    const Configuration now = configuration_of(stage);
    ran.options.job = job;
    const JobFolder files(training_.job(ran.options));
    if (fresh) begin_afresh(files, now, "");
    ran.earlier = earlier_work(files, now);
    if (ran.earlier.record) return ran;
    training_.spec = stage.train();
    ran.options.attempt = files.next_attempt();
    ran.options.ranks = stage.gang().ranks();
    ran.options.expert_parallel = stage.gang().expert_parallel();
    ran.options.configuration = to_json(now);
    ran.options.checkpoints = {
        .resumable = ran.earlier.resumable,
        .is_ours = [now, first = ran.earlier.first_attempt](
                       const nlohmann::json& scalars) { return may_go_on_from(scalars, now, first); },
        .commit = nullptr};
    files.record_begun(ran.options.attempt, ran.options.configuration);
    ran.options.on_data_read = [now](const auto& read) { require_recorded(now, read); };
    if (before_training) before_training();
    ran.options.progress = [&](const StepRecord& at) {
      ran.steps.push_back(at.step);
      if (at.step == kill_at) throw std::runtime_error("killed by the test");
    };
    if (kill_at > 0) {
      EXPECT_THROW(training_.run(ran.options), std::runtime_error);
    } else {
      const std::optional<TrainOutcome> outcome = training_.run(ran.options);
      if (!outcome) throw std::runtime_error("it stopped before its end");
      ran.history = outcome->history;
      nlohmann::json record = to_json(now);
      record["attempt"] = ran.options.attempt;
      // The fixture's outputs have names of their own.
      std::filesystem::rename(training_.output(ran.options), files.output_path(ran.options.attempt));
      files.record_finished(ran.options.attempt, record);
    }
    ran.options.progress = {};
    return ran;
  }

  std::filesystem::path folder(const std::string& job) const { return training_.folder() / job; }
  std::map<std::string, std::string> weights(const Ran& ran) const {
    std::map<std::string, std::string> files =
        contents(JobFolder(folder(ran.options.job)).output_path(ran.options.attempt));
    std::erase_if(files, [](const auto& file) { return !file.first.ends_with(".safetensors"); });
    return files;
  }
  std::map<std::string, std::string> checkpoints(const std::string& job) const {
    return contents(folder(job) / "checkpoints");
  }
  /// Another job that was killed at the same place.
  void copy(const std::string& from, const std::string& to) const {
    std::filesystem::copy(folder(from), folder(to), std::filesystem::copy_options::recursive);
  }

  TinyTraining training_;
  v1::Stage stage_;
};

}  // namespace moe::testing
