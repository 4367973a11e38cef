#include "pipeline/validate.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <regex>
#include <vector>

#include "common/error.h"
#include "pipeline/defaults.h"
#include "pipeline/gate.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/metrics.h"

namespace moe {
namespace {

constexpr char kNameRule[] = "lower-case letters, digits and '-', first a letter or digit, at most 63";

bool is_name(const std::string& name) {
  static const std::regex rule("[a-z0-9][a-z0-9-]{0,62}");
  return std::regex_match(name, rule);
}

void check_name(const std::string& name, const std::string& path, const std::string& missing, ProblemSink& sink) {
  if (name.empty()) {
    sink.add(path, missing);
  } else if (!is_name(name)) {
    sink.add(path, concat("not a name (", name, "); use ", kNameRule));
  }
}

std::vector<std::string> labels_of_stages(const v1::PipelineSpec& spec) {
  std::vector<std::string> names;
  for (const v1::Stage& stage : spec.stages()) names.push_back(stage_name(stage));
  return item_labels(names);
}

void check_gang(const v1::GangSpec& gang, const FieldChecks& checks) {
  checks.at_least("ranks", gang.has_ranks(), gang.ranks(), 0);
  checks.at_least("expert_parallel", gang.has_expert_parallel(), gang.expert_parallel(), 0);
  checks.choice("device", gang.has_device(), gang.device(), {"cpu", "cuda"});
  checks.choice("dtype", gang.has_dtype(), gang.dtype(), {"float32", "bfloat16", "float64"});
}

// "convert, train or export": what a stage must be to offer a model.
std::string kinds_that_make_models() {
  std::vector<std::string> names = job_kinds().names();
  std::erase_if(names, [](const std::string& name) { return !is_model(job_kinds().at(name).leaves); });
  return alternatives(names);
}

// What the checks of one stage need to know of the others.
class StageChecker {
 public:
  StageChecker(const v1::PipelineSpec& spec, const KnownNames& known, ProblemSink& sink)
      : spec_(spec), known_(known), sink_(sink) {
    for (int i = 0; i < spec.stages_size(); ++i) index_.emplace(stage_name(spec.stages(i)), i);
  }

  void check(int i) {
    const v1::Stage& stage = spec_.stages(i);
    const std::string path = stage_path(spec_, i);
    if (stage.has_gang()) check_gang(stage.gang(), {join_path(path, "gang"), known_, sink_});
    check_stage_name(i, path);
    if (stage.has_gate()) return check_gate(i, join_path(path, "gate"));
    const JobKind* kind = kind_of(stage);
    if (kind == nullptr) {
      std::vector<std::string> all = job_kinds().names();
      all.emplace_back("gate");
      // A Job without a kind is reported at the top level.
      if (spec_.kind() != "Job") sink_.add(path, concat("nothing to do; add one of ", alternatives(all)));
      return;
    }
    for (const StageInput& input : inputs_of(stage)) {
      if (input.is_model) check_reference(i, input.value, join_path(path, input.field));
    }
    kind->check(stage, {join_path(path, stage_kind(stage)), known_, sink_});
    check_layout(i, path);
  }

 private:
  void check_stage_name(int i, const std::string& path) {
    const v1::Stage& stage = spec_.stages(i);
    const std::string& name = stage_name(stage);
    if (spec_.kind() == "Job") return;
    const std::string name_path =
        join_path(stage.has_gate() && stage.name().empty() ? join_path(path, "gate") : path, "name");
    check_name(name, name_path, "missing; every stage and gate needs a name", sink_);
    if (stage.has_gate() && !stage.name().empty()) {
      sink_.add(name_path, concat("a gate's name stands inside `gate` (", stage.name(), "); move it there"));
    }
    if (stage.has_gate() && (stage.has_gang() || stage.has_seed())) {
      sink_.add(path, "a gate runs nothing; remove its gang and seed");
    }
    if (const auto first = index_.find(name); !name.empty() && first->second != i) {
      sink_.add(name_path,
                concat("duplicate name (", name, "); stage ", first->second, " (counted from 0) has it already"));
    }
    if (spec_.inputs().contains(name)) {
      sink_.add(name_path, concat("the name of a pipeline input too (", name, "); rename one of them"));
    }
  }

  std::vector<std::string> models_before(int i) const {
    std::vector<std::string> names;
    for (const auto& [name, input] : spec_.inputs()) names.push_back(name);
    std::sort(names.begin(), names.end());
    for (int j = 0; j < i; ++j) {
      if (makes_model(spec_.stages(j))) names.push_back(stage_name(spec_.stages(j)) + ".model");
    }
    return names;
  }

  // A model: a pipeline input, "<stage>.model" of an earlier stage, or a directory, told by a slash.
  void check_reference(int i, const std::string& reference, const std::string& path) {
    if (reference.empty()) {
      return sink_.add(path, "missing; name a model: a pipeline input, <stage>.model or a directory");
    }
    if (spec_.inputs().contains(reference) || reference.find('/') != std::string::npos || reference == "." ||
        reference == "..") {
      return;
    }
    const size_t dot = reference.rfind('.');
    if (dot != std::string::npos) {
      if (const auto found = index_.find(reference.substr(0, dot)); found != index_.end()) {
        const v1::Stage& stage = spec_.stages(found->second);
        if (found->second == i) return sink_.add(path, concat("refers to its own stage (", reference, ")"));
        if (found->second > i)
          return sink_.add(path, concat("refers to a later stage (", reference, "); move that stage before this one"));
        if (reference.substr(dot + 1) != "model") {
          return sink_.add(path, concat("a stage offers only its model (", reference, "); write ",
                                        reference.substr(0, dot), ".model"));
        }
        if (!makes_model(stage)) {
          return sink_.add(path,
                           concat("stage '", stage_name(stage), "' makes no model (", reference, "); it is of kind ",
                                  stage_kind(stage), ", name a ", kinds_that_make_models(), " stage"));
        }
        return;
      }
    }
    if (const auto found = index_.find(reference); found != index_.end() && makes_model(spec_.stages(found->second))) {
      return sink_.add(path, concat("a stage, not a model (", reference, "); write ", reference, ".model"));
    }
    sink_.add(path, concat("no such model (", reference, ")", suggestion(reference, models_before(i)),
                           "; a directory is written with a slash (./", reference, ")"));
  }

  void check_gate(int i, const std::string& path) {
    const v1::GateSpec& gate = spec_.stages(i).gate();
    const FieldChecks checks(path, known_, sink_);
    if (gate.op().empty()) checks.add("op", "missing; one of <, <=, >, >=, == in quotes");
    checks.choice("op", !gate.op().empty(), gate.op(), gate_operators());
    checks.choice("on_fail", gate.has_on_fail(), gate.on_fail(), {"HOLD", "FAIL", "WARN"});
    check_metric(i, gate.metric(), checks.path("metric"));
  }

  void check_metric(int i, const std::string& metric, const std::string& path) {
    if (metric.empty()) return sink_.add(path, "missing; write <stage>.<metric>, for example evaluate.loss");
    const size_t dot = metric.find('.');
    const std::string stage_part = metric.substr(0, dot);
    const auto found = index_.find(stage_part);
    if (dot == std::string::npos || found == index_.end()) {
      std::vector<std::string> stages;
      for (int j = 0; j < i; ++j) {
        if (!spec_.stages(j).has_gate()) stages.push_back(stage_name(spec_.stages(j)));
      }
      if (dot == std::string::npos)
        return sink_.add(path, concat("names no stage (", metric, "); write <stage>.<metric>"));
      return sink_.add(path, concat("no stage '", stage_part, "' (", metric, ")", suggestion(stage_part, stages)));
    }
    if (found->second >= i) {
      return sink_.add(
          path, concat("stage '", stage_part, "' comes after this gate (", metric, "); move the gate behind it"));
    }
    const std::vector<std::string> known = metrics_of(spec_.stages(found->second));
    const std::string name = metric.substr(dot + 1);
    if (std::find(known.begin(), known.end(), name) != known.end()) return;
    const std::string nearest = nearest_name(name, known);
    const std::string baseline =
        name.find("baseline") != std::string::npos && nearest.find("baseline") == std::string::npos
            ? "; the stage has no `baseline`"
            : "";
    sink_.add(path, concat("stage '", stage_part, "' produces no metric '", name, "' (", metric, ")", baseline,
                           baseline.empty() && !nearest.empty() ? concat("; did you mean '", nearest, "'?") : "",
                           known.empty() ? "" : concat("; it produces: ", comma_separated(known))));
  }

  // Experts per layer of each part of the model of a stage; none where it comes from outside.
  std::vector<int> experts_of(int i) const {
    const v1::Stage& stage = spec_.stages(i);
    if (const JobKind* kind = kind_of(stage); kind != nullptr && kind->experts) {
      if (const std::optional<std::vector<int>> experts = kind->experts(stage)) return *experts;
    }
    const std::vector<std::string> models = model_references(stage);
    const std::string input = models.empty() ? "" : models.front();
    const size_t dot = input.rfind('.');
    if (dot == std::string::npos) return {};
    const auto source = index_.find(input.substr(0, dot));
    return source == index_.end() || source->second >= i || !makes_model(spec_.stages(source->second))
               ? std::vector<int>()
               : experts_of(source->second);
  }

  void check_layout(int i, const std::string& path) {
    const v1::GangSpec gang = with_defaults(spec_.stages(i).gang(), spec_.defaults().gang());
    // The value is reported where it was written, which may be in the defaults.
    const bool own = spec_.stages(i).has_gang() && spec_.stages(i).gang().has_expert_parallel();
    const bool inherited = !own && spec_.defaults().gang().has_expert_parallel();
    const std::string where =
        inherited ? "defaults.gang.expert_parallel" : join_path(join_path(path, "gang"), "expert_parallel");
    // A default is told once, whichever stages it fits badly.
    const std::string of_stage = inherited ? "" : concat(" (stage '", stage_name(spec_.stages(i)), "')");
    const int ep = gang.expert_parallel();
    if (ep < 1) return;
    if (gang.ranks() > 0 && gang.ranks() % ep != 0) {
      sink_.add(where, concat("expert_parallel ", ep, " does not divide ranks ", gang.ranks(), of_stage, "; use ",
                              divisors(gang.ranks(), gang.ranks())));
    }
    const std::vector<int> experts = experts_of(i);
    const auto failing =
        std::find_if(experts.begin(), experts.end(), [ep](int count) { return count > 0 && count % ep != 0; });
    if (failing != experts.end()) {
      const int common = std::accumulate(experts.begin(), experts.end(), 0, std::gcd<int, int>);
      sink_.add(where, concat("expert_parallel ", ep, " does not divide experts ", *failing, of_stage, "; use ",
                              divisors(common, gang.ranks())));
    }
  }

  // "1, 2 or 4": what divides n and, when ranks are known, the ranks too.
  static std::string divisors(int n, int ranks) {
    std::vector<std::string> found;
    for (int d = 1; d <= n; ++d) {
      if (n % d == 0 && (ranks < 1 || ranks % d == 0)) found.push_back(std::to_string(d));
    }
    return alternatives(found);
  }

  const v1::PipelineSpec& spec_;
  const KnownNames& known_;
  ProblemSink& sink_;
  // Name of a stage -> the first that has it.
  std::map<std::string, int> index_;
};

}  // namespace

std::string stage_path(const v1::PipelineSpec& spec, int stage) {
  return spec.kind() == "Job" ? "" : join_path("stages", labels_of_stages(spec)[stage]);
}

void check_top_level(const v1::PipelineSpec& spec, const SourceMap& sources, Problems& problems) {
  ProblemSink sink(sources, problems);
  if (spec.api_version().empty()) {
    sink.add("api_version", "missing; write apiVersion: moe/v1");
  } else if (spec.api_version() != "moe/v1") {
    sink.add("api_version", concat("unknown version (", spec.api_version(), "); this program reads moe/v1"));
  }
  check_name(spec.name(), "name", "missing; the pipeline needs a name", sink);
  for (const auto& [name, input] : spec.inputs()) {
    const std::string path = join_path("inputs", name);
    check_name(name, path, "an input needs a name", sink);
    if (input.path().empty()) sink.add(join_path(path, "path"), "missing; name a model directory");
  }
  check_gang(spec.defaults().gang(), {"defaults.gang", {}, sink});
  if (spec.kind().empty()) sink.add("kind", "missing; write kind: Pipeline or kind: Job");
  FieldChecks("", {}, sink).choice("kind", !spec.kind().empty(), spec.kind(), {"Pipeline", "Job"});
  if (spec.kind() == "Pipeline" && spec.stages().empty())
    sink.add("stages", "missing; a Pipeline needs at least one stage");
}

void check_stages(const v1::PipelineSpec& spec, const SourceMap& sources, const KnownNames& known, Problems& problems) {
  ProblemSink sink(sources, problems);
  StageChecker checker(spec, known, sink);
  for (int i = 0; i < spec.stages_size(); ++i) checker.check(i);
}

}  // namespace moe
