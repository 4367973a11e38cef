#include "pipeline/field_effects.h"

#include "pipeline/kinds/kinds.h"

namespace moe {
namespace {

std::map<std::string, FieldEffect> with_kinds(std::map<std::string, FieldEffect> table) {
  for (const std::string& name : job_kinds().names()) {
    const JobKind& kind = job_kinds().at(name);
    table.insert(kind.effects.begin(), kind.effects.end());
  }
  return table;
}

}  // namespace

const std::map<std::string, FieldEffect>& field_effects() {
  using enum FieldEffect;
  static const std::map<std::string, FieldEffect> table = with_kinds({
      // Around the stages. What stages inherit is judged where it arrives; a gate is judged anew in every run.
      {"PipelineSpec.api_version", kBookkeeping},
      {"PipelineSpec.kind", kBookkeeping},
      {"PipelineSpec.name", kBookkeeping},
      {"Input.path", kContents},
      {"Defaults.seed", kResult},
      {"GateSpec.name", kBookkeeping},
      {"GateSpec.metric", kBookkeeping},
      {"GateSpec.op", kBookkeeping},
      {"GateSpec.value", kBookkeeping},
      {"GateSpec.on_fail", kBookkeeping},
      {"Stage.name", kBookkeeping},
      {"Stage.seed", kResult},

      {"GangSpec.ranks", kLayout},
      {"GangSpec.device", kLayout},
      {"GangSpec.expert_parallel", kLayout},
      {"GangSpec.dtype", kResult},

      {"DataSource.path", kContents},
      {"DataSource.weight", kResult},
      {"DataSource.domain", kMeasure},
      {"DataSource.max_documents", kResult},
      {"DataSource.special_tokens", kResult},
  });
  return table;
}

FieldEffect effect_of(const std::string& path, const google::protobuf::FieldDescriptor& field) {
  const auto& table = field_effects();
  if (const auto row = table.find(path); row != table.end()) return row->second;
  const auto row = table.find(field.containing_type()->name() + "." + field.name());
  return row == table.end() ? FieldEffect::kResult : row->second;
}

}  // namespace moe
