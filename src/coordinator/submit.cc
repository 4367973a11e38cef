#include <algorithm>
#include <random>

#include "common/error.h"
#include "common/file_io.h"
#include "coordinator/input_check.h"
#include "coordinator/operation.h"
#include "pipeline/defaults.h"
#include "pipeline/moved_fields.h"
#include "pipeline/pipeline_status.h"
#include "pipeline/validate.h"
#include "pipeline/warnings.h"

/// Pipelines come in: checked as a whole, then stored with all their jobs in one transaction.
namespace moe {
namespace {

constexpr size_t kMaxIdLength = 63;
constexpr int kSuffixLength = 8;

std::string random_suffix() {
  constexpr char kBase32[] = "abcdefghijklmnopqrstuvwxyz234567";
  std::random_device random;
  uint64_t bits = (static_cast<uint64_t>(random()) << 32) | random();
  std::string text;
  for (int i = 0; i < kSuffixLength; ++i, bits >>= 5) text += kBase32[bits % 32];
  return text;
}

/// What no connected gang can run: one sentence per need.
std::vector<std::string> warnings_for(const v1::PipelineSpec& spec, const std::vector<GangShape>& gangs) {
  std::vector<std::pair<std::string, std::vector<std::string>>> stages_by_need;
  for (const v1::Stage& stage : spec.stages()) {
    const GangNeed need = need_of(stage.gang());
    if (stage.has_gate() ||
        std::any_of(gangs.begin(), gangs.end(), [&](const GangShape& gang) { return fits(need, gang); }))
      continue;
    const std::string text = describe(need);
    auto found = std::find_if(stages_by_need.begin(), stages_by_need.end(),
                              [&](const auto& entry) { return entry.first == text; });
    if (found == stages_by_need.end()) found = stages_by_need.insert(stages_by_need.end(), {text, {}});
    found->second.push_back(stage.name());
  }
  std::string sizes;
  for (const GangShape& gang : gangs) sizes += concat(sizes.empty() ? "" : ", ", gang.ranks, " ", gang.device);
  std::vector<std::string> warnings;
  for (const auto& [need, stages] : stages_by_need) {
    std::string names;
    for (const std::string& name : stages) names += (names.empty() ? "" : ", ") + name;
    const bool is_one = stages.size() == 1;
    warnings.push_back(concat(is_one ? "stage " : "stages ", names, is_one ? " needs " : " need ", need, "; ",
                              gangs.empty() ? "no gang is connected" : "connected gangs have " + sizes + " ranks",
                              is_one ? ": it will wait for one" : ": they will wait for one"));
  }
  return warnings;
}

std::string problems_text(const Problems& problems) {
  std::string text = problems.size() == 1 ? "" : concat(problems.size(), " problems:\n");
  for (size_t i = 0; i < problems.size(); ++i)
    text += concat(i == 0 ? "" : "\n", problems[i].path, ": ", problems[i].message);
  return text;
}

}  // namespace

absl::StatusOr<v1::SubmitResponse> Coordinator::submit(const v1::SubmitRequest& request) {
  v1::PipelineSpec spec = request.spec();
  for (v1::Stage& stage : *spec.mutable_stages()) move_fields(stage);  // of an older moectl
  const InputCheck inputs = check_inputs(spec, options_.data_root);    // before the lock is taken
  const auto check = [&](v1::SubmitResponse& response) {
    notice_stall();
    Problems problems;
    check_top_level(spec, SourceMap("the request"), problems);
    // It comes as the pipeline of one stage that load_pipeline makes of it.
    if (spec.kind() == "Job" && (spec.stages_size() != 1 || stage_kind(spec.stages(0)).empty())) {
      problems.push_back({"", "stages", "a Job comes as exactly one stage that says what it does"});
    }
    check_stages(spec, SourceMap("the request"), known_names(), problems);
    for (const v1::Stage& stage : spec.stages()) {
      if (stage.name().size() + kSuffixLength + 3 > kMaxIdLength) {
        problems.push_back({"", "stages." + stage.name(),
                            concat("the name is too long for a job id of ", kMaxIdLength, " characters")});
      }
    }
    problems.insert(problems.end(), inputs.problems.begin(), inputs.problems.end());
    for (const Problem& problem : problems) {
      v1::SpecProblem* sent = response.add_problems();
      sent->set_path(excerpt(problem.path));
      sent->set_message(printable(problem.message, kMaxProblemText));
    }
    *response.mutable_effective() = effective_spec(spec);
    for (const std::string& warning : warnings_of(response.effective())) response.add_warnings(warning);
    for (const std::string& warning : warnings_for(response.effective(), gang_shapes())) response.add_warnings(warning);
    for (const std::string& warning : inputs.warnings) response.add_warnings(warning);
    return problems;
  };
  if (request.validate_only()) {
    const std::lock_guard lock(mutex_);
    v1::SubmitResponse response;
    check(response);
    response.set_inputs_seen(inputs.told);
    return response;
  }
  return once<v1::SubmitRequest, v1::SubmitResponse>(
      "Submit", request, [&](Operation& operation) -> Result<v1::SubmitResponse> {
        v1::SubmitResponse response;
        if (const Problems problems = check(response); !problems.empty())
          return absl::InvalidArgumentError(problems_text(problems));
        response.clear_problems();
        size_t longest = 0;
        for (const v1::Stage& stage : spec.stages()) longest = std::max(longest, stage.name().size());
        std::string id;
        do {
          id = spec.name().substr(0, kMaxIdLength - longest - kSuffixLength - 2) + "-" + random_suffix();
        } while (pipelines_.contains(id));
        PipelineEntry& entry = pipelines_[id];
        entry.record.set_id(id);
        entry.record.set_name(spec.name());
        *entry.record.mutable_spec() = response.effective();
        entry.record.set_user(request.user());
        touch(entry.record.mutable_created());
        entry.engine = make_pipeline_state(entry.record.spec());
        operation.event(id, "", "SUBMITTED", concat(entry.record.spec().stages_size(), " stages"));
        for (const v1::Stage& stage : entry.record.spec().stages()) {
          if (stage.has_gate()) continue;
          v1::Job& job = jobs_[id + "-" + stage.name()];
          job.set_id(id + "-" + stage.name());
          job.set_pipeline_id(id);
          *job.mutable_stage() = stage;
          job.set_kind(stage_kind(stage));
          job.set_state(v1::JOB_STATE_BLOCKED);
          *job.mutable_created() = entry.record.created();
          operation.changed(job);
          response.add_job_ids(job.id());
        }
        if (absl::Status status = feed(operation, entry, Start{}); !status.ok()) return status;
        response.set_pipeline_id(id);
        return response;
      });
}

}  // namespace moe
