#include <map>

#include "cli/describe.h"
#include "cli/elastic_table.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "common/error.h"
#include "pipeline/spec.h"
#include "report/text.h"

namespace moe {
namespace {

/// "evaluate-stage2.loss_ratio_to_baseline 1.07 <= 1.25": what a gate measured, as far as it is known.
std::string gate_text(const v1::GateSpec& gate, const v1::Pipeline& pipeline) {
  std::string value = "?";
  const size_t dot = gate.metric().find('.');
  for (const v1::StageState& stage : pipeline.stages()) {
    if (dot == std::string::npos || stage.name() != gate.metric().substr(0, dot)) continue;
    const auto found = stage.metrics().find(gate.metric().substr(dot + 1));
    if (found != stage.metrics().end()) value = short_number(found->second);
  }
  return concat(gate.metric(), " ", value, " ", gate.op(), " ", short_number(gate.value()));
}

std::string stage_note(const v1::StageState& stage, const std::map<std::string, const v1::Stage*>& specs,
                       const v1::Pipeline& pipeline) {
  std::string note = stage.message();
  const auto spec = specs.find(stage.name());
  if (stage.is_gate() && note.empty() && spec != specs.end()) note = gate_text(spec->second->gate(), pipeline);
  if (!stage.decided_by().empty()) note += concat("; decided by ", stage.decided_by());
  return note;
}

}  // namespace

std::string describe_pipeline(const v1::Pipeline& pipeline, const std::vector<v1::Event>& events, int width) {
  std::string text = field("Pipeline", pipeline.id());
  text += field("Name", pipeline.name());
  text += field("Phase", pipeline.phase());
  text += field("Reason", pipeline.reason());
  text += field("User", pipeline.user());
  text += field("Created", time_text(pipeline.created()));
  text += field("Finished", time_text(pipeline.finished()));
  text += field("Took", span_text(pipeline.created(), pipeline.finished()));
  text += field("Jobs", pipeline.id() + "-STAGE");

  std::map<std::string, const v1::Stage*> specs;
  for (const v1::Stage& stage : pipeline.spec().stages()) specs[stage_name(stage)] = &stage;
  ElasticTable table({{"STAGE"}, {"KIND"}, {"STATUS"}, {"JOB"}, {"NOTE"}});
  for (const v1::StageState& stage : pipeline.stages()) {
    const auto spec = specs.find(stage.name());
    const std::string kind = stage.is_gate() ? "gate" : spec != specs.end() ? kind_text(*spec->second) : "-";
    table.add_row({stage.name(), kind, stage.status(),
                   stage.job_state() == v1::JOB_STATE_UNSPECIFIED ? "" : state_text(stage.job_state()),
                   stage_note(stage, specs, pipeline)});
  }
  text += "\n" + table.render(width);
  if (const std::string hint = approval_hint(pipeline); !hint.empty()) text += "\n" + hint + "\n";
  return text + events_section(events);
}

}  // namespace moe
