#include "pipeline/field_effects.h"

namespace moe {

const std::map<std::string, FieldEffect>& field_effects() {
  using enum FieldEffect;
  static const std::map<std::string, FieldEffect> table{
      // Around the stages. What stages inherit is judged where it arrives; a gate is judged anew in every run.
      {"PipelineSpec.api_version", kBookkeeping},
      {"PipelineSpec.kind", kBookkeeping},
      {"PipelineSpec.name", kBookkeeping},
      {"PipelineSpec.seed", kResult},
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
      // Nothing is reported under the names of these.
      {"convert.calibration.domain", kBookkeeping},
      {"train.data.domain", kBookkeeping},

      {"ConvertSpec.input", kContents},
      {"ConvertSpec.method", kResult},
      {"ConvertSpec.experts", kResult},
      {"ConvertSpec.top_k", kResult},
      {"ConvertSpec.router_init", kResult},
      {"ConvertSpec.router_scaling", kResult},
      {"ConvertSpec.scale_mode", kResult},
      {"ConvertSpec.output_scale", kResult},
      {"ConvertSpec.calibration_tokens", kResult},
      {"ConvertSpec.topk_norm", kResult},
      // Chooses defaults and nothing else: they are filled in, and count themselves.
      {"ConvertSpec.preset", kBookkeeping},
      {"ConvertSpec.dtype", kResult},
      {"ConvertSpec.template", kResult},

      {"TrainSpec.input", kContents},
      {"TrainSpec.validation", kMeasure},
      {"TrainSpec.steps", kMore},
      {"TrainSpec.sequence_length", kResult},
      {"TrainSpec.micro_batch_rows", kResult},
      {"TrainSpec.micro_steps", kResult},
      {"TrainSpec.learning_rate", kResult},
      {"TrainSpec.learning_rate_floor", kResult},
      {"TrainSpec.warmup_steps", kResult},
      {"TrainSpec.beta1", kResult},
      {"TrainSpec.beta2", kResult},
      {"TrainSpec.epsilon", kResult},
      {"TrainSpec.weight_decay", kResult},
      {"TrainSpec.clip_norm", kResult},
      {"TrainSpec.balance_loss", kResult},
      {"TrainSpec.validate_every", kBookkeeping},
      {"TrainSpec.validation_tokens", kMeasure},
      {"TrainSpec.checkpoint_every", kBookkeeping},
      {"TrainSpec.keep_checkpoints", kBookkeeping},
      {"TrainSpec.template", kResult},
      {"TrainSpec.append_eos", kResult},
      {"TrainSpec.long_documents", kResult},
      {"TrainSpec.supervise", kResult},
      {"TrainSpec.drop_system", kResult},

      {"ExportSpec.input", kContents},
      {"ExportSpec.format", kResult},
      {"ExportSpec.dtype", kResult},
      {"ExportSpec.max_shard_bytes", kResult},
      {"ExportSpec.pad_experts_to", kResult},
      {"ExportSpec.allow_padding", kResult},
      {"ExportSpec.keep_tied", kResult},

      {"EvaluateSpec.input", kContents},
      {"EvaluateSpec.baseline", kContents},
      {"EvaluateSpec.tasks", kResult},
      {"EvaluateSpec.sequence_length", kResult},
      {"EvaluateSpec.max_tokens", kResult},
      {"EvaluateSpec.template", kResult},
      {"EvaluateSpec.append_eos", kResult},
  };
  return table;
}

FieldEffect effect_of(const std::string& path, const google::protobuf::FieldDescriptor& field) {
  const auto& table = field_effects();
  if (const auto row = table.find(path); row != table.end()) return row->second;
  const auto row = table.find(field.containing_type()->name() + "." + field.name());
  return row == table.end() ? FieldEffect::kResult : row->second;
}

}  // namespace moe
