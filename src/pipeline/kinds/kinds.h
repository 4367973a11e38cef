#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/registry.h"
#include "moe/v1/pipeline.pb.h"
#include "pipeline/field_checks.h"
#include "pipeline/field_effects.h"

/// The kinds of job, as everything but their runners knows them: a row says what a job of the kind may be told, what it
/// reads and what it leaves. Checks, defaults, plans, the coordinator, moectl and reports ask the row and know no kind
/// by name. The runners stand in src/worker/jobs.cc, under the same names.
namespace moe {

/// What a job leaves in its output folder, for those that come after it. Of the models, tables tell them apart.
enum class Artifact {
  kConvertedModel,  ///< a model of another structure
  kTrainedModel,    ///< the same structure with other weights
  kExportedModel,   ///< a model in the form of other programs
  kEvaluation,      ///< evaluation.json: held-out losses of the models that it reads, which a report compares
  kReport,          ///< JSON of its own, for people and programs
};

/// Whether later stages may read it as "<stage>.model".
bool is_model(Artifact artifact);

/// "model", "evaluation" or "report": the kind of the artifact in the coordinator's lineage.
const char* to_string(Artifact artifact);

/// A setting of an older schema that stands elsewhere in the kind's message now (moved_fields.h).
struct MovedField {
  std::string from;  ///< its key
  int number;        ///< of the field that it was, now reserved
  std::string to;    ///< where it stands, dotted: "ffn.experts"
};

/// One row. Functions get a stage that holds the kind's message.
struct JobKind {
  Artifact leaves;
  /// Fields of its message that name a model or list models, dotted where they lie deeper, the model that it works on
  /// first. One that is `optional` in the schema, and a list, may be left out, the others may not.
  std::vector<std::string> models;
  /// Fields that list data files, dotted likewise.
  std::vector<std::string> data;
  /// Those of `data` on which models are measured: text that a model was fitted to should not stand in them.
  std::vector<std::string> measured_data = {};
  /// Field that lists by name what it measures (Measure::task of common/measures.h), which an empty list leaves to the
  /// kind; empty: it has no such list.
  std::string tasks = {};
  /// What a changed value means, for every field of its messages (field_effects.h).
  std::map<std::string, FieldEffect> effects;
  /// Fills in what a file left out. What depends on the model stays absent: the runner settles it.
  std::function<void(v1::Stage& stage)> fill;
  /// Adds what is wrong with its own fields, models aside. `checks` are at the section of its message.
  std::function<void(const v1::Stage& stage, const FieldChecks& checks)> check;
  /// Its work in one line, for a plan: "independent_random, 8 experts, top-2".
  std::function<std::string(const v1::Stage& effective)> plan;

  /// Where a file of before finds its keys.
  std::vector<MovedField> moved = {};
  /// What its user hardly means, a sentence each; none if absent.
  std::function<std::vector<std::string>(const v1::Stage& effective)> warnings = {};
  /// The same, of what it does with a model that these stages made: the nearest first, each from the model of the next.
  std::function<std::vector<std::string>(const v1::Stage& effective, const std::vector<v1::Stage>& origins)>
      origin_warnings = {};
  /// Experts per layer of each part of the model that it makes, all of which expert_parallel must divide; none of a
  /// dense one; nothing: those of the model that it works on.
  std::function<std::optional<std::vector<int>>(const v1::Stage& stage)> experts = {};
  /// Changes of fields that have to be judged together; each was found with the class that it has alone.
  std::function<void(const v1::Stage& before, const v1::Stage& now, std::vector<FieldChange>& found)> judge = {};
  /// Its work is optimizer steps: a line of metrics.jsonl and a point of the loss curve each, kept by checkpoints.
  bool has_steps = false;
  /// Room that its results need, as a multiple of the models that it makes one of, or of the largest that it measures.
  double room = 2;
};

/// THE list of job kinds, by the name of their message in a stage.
const Registry<JobKind>& job_kinds();

/// nullptr if there is no kind of that name.
const JobKind* kind_named(std::string_view name);

/// nullptr for a gate and for a stage that does not say what it does.
const JobKind* kind_of(const v1::Stage& stage);

/// Whether a stage offers "<stage>.model".
bool makes_model(const v1::Stage& stage);

}  // namespace moe
