#include "pipeline/defaults.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

using google::protobuf::RepeatedPtrField;

void fill_sources(RepeatedPtrField<v1::DataSource>& sources) {
  for (v1::DataSource& source : sources) {
    if (!source.has_weight()) source.set_weight(1);
    source.set_domain(domain_of(source));
    if (!source.has_max_documents()) source.set_max_documents(0);
    if (!source.has_special_tokens()) source.set_special_tokens("text");
  }
}

}  // namespace

std::string domain_of(const v1::DataSource& source) {
  if (source.has_domain()) return source.domain();
  const std::string name = source.path().substr(source.path().rfind('/') + 1);
  return name.substr(0, name.find('.', 1));
}

v1::GangSpec with_defaults(const v1::GangSpec& gang, const v1::GangSpec& inherited) {
  v1::GangSpec filled;
  filled.set_ranks(0);
  filled.set_device("cpu");
  filled.set_expert_parallel(0);
  filled.set_dtype("float32");
  filled.MergeFrom(inherited);
  filled.MergeFrom(gang);
  return filled;
}

v1::ConvertSpec with_defaults(const v1::ConvertSpec& convert) {
  v1::ConvertSpec filled = convert;
  const bool is_published = convert.preset() == "published";
  if (!filled.has_preset()) filled.set_preset("ours");
  if (!filled.has_router_init()) filled.set_router_init("random_selection");
  // The papers use the router rows as they are and the scale N / K (llama-moe-v1 1.11, llama-moe-v2 1.3).
  if (!filled.has_router_scaling()) filled.set_router_scaling(is_published ? "raw" : "calibrated");
  if (!filled.has_scale_mode()) filled.set_scale_mode(is_published ? "n_over_k" : "least_squares");
  if (!filled.has_calibration_tokens()) filled.set_calibration_tokens(4096);
  // Renormalised over one expert, the weight is constantly 1 and the router would learn nothing.
  if (!filled.has_topk_norm()) filled.set_topk_norm(filled.top_k() == 1 ? "straight_through" : "renorm");
  if (!filled.has_dtype()) filled.set_dtype("source");
  fill_sources(*filled.mutable_calibration());
  return filled;
}

v1::TrainSpec with_defaults(const v1::TrainSpec& train) {
  v1::TrainSpec filled = train;
  const int64_t steps = filled.steps();
  fill_sources(*filled.mutable_data());
  fill_sources(*filled.mutable_validation());
  if (!filled.has_micro_batch_rows()) filled.set_micro_batch_rows(8);
  if (!filled.has_micro_steps()) filled.set_micro_steps(1);
  if (!filled.has_learning_rate()) filled.set_learning_rate(2e-4);
  if (!filled.has_learning_rate_floor()) filled.set_learning_rate_floor(0.1);
  if (!filled.has_warmup_steps()) filled.set_warmup_steps(steps / 20);
  if (!filled.has_beta1()) filled.set_beta1(0.9);
  if (!filled.has_beta2()) filled.set_beta2(0.95);
  if (!filled.has_epsilon()) filled.set_epsilon(1e-8);
  if (!filled.has_weight_decay()) filled.set_weight_decay(0.1);
  if (!filled.has_clip_norm()) filled.set_clip_norm(1);
  if (!filled.has_balance_loss()) filled.set_balance_loss(0.01);
  if (!filled.has_validate_every()) filled.set_validate_every(std::max<int64_t>(1, steps / 10));
  if (!filled.has_validation_tokens()) filled.set_validation_tokens(16384);
  if (!filled.has_checkpoint_every()) filled.set_checkpoint_every(std::max<int64_t>(1, steps / 5));
  if (!filled.has_keep_checkpoints()) filled.set_keep_checkpoints(2);
  if (!filled.has_append_eos()) filled.set_append_eos(true);
  if (!filled.has_long_documents()) filled.set_long_documents("drop");
  if (!filled.has_supervise()) filled.set_supervise("all");
  if (!filled.has_drop_system()) filled.set_drop_system(false);
  return filled;
}

v1::EvaluateSpec with_defaults(const v1::EvaluateSpec& evaluate) {
  v1::EvaluateSpec filled = evaluate;
  fill_sources(*filled.mutable_data());
  if (filled.tasks().empty()) filled.add_tasks("perplexity");
  if (!filled.has_max_tokens()) filled.set_max_tokens(0);
  if (!filled.has_append_eos()) filled.set_append_eos(true);
  return filled;
}

v1::ExportSpec with_defaults(const v1::ExportSpec& spec) {
  v1::ExportSpec filled = spec;
  if (!filled.has_format()) filled.set_format("auto");
  if (!filled.has_dtype()) filled.set_dtype("bfloat16");
  if (!filled.has_max_shard_bytes()) filled.set_max_shard_bytes(5'000'000'000);
  if (!filled.has_pad_experts_to()) filled.set_pad_experts_to(0);
  if (!filled.has_allow_padding()) filled.set_allow_padding(false);
  if (!filled.has_keep_tied()) filled.set_keep_tied(false);
  return filled;
}

v1::PipelineSpec effective_spec(const v1::PipelineSpec& spec) {
  v1::PipelineSpec filled = spec;
  v1::Defaults& defaults = *filled.mutable_defaults();
  if (!defaults.has_seed()) defaults.set_seed(0);
  *defaults.mutable_gang() = with_defaults(defaults.gang(), {});
  for (v1::Stage& stage : *filled.mutable_stages()) {
    switch (stage.kind_case()) {
      case v1::Stage::kConvert: *stage.mutable_convert() = with_defaults(stage.convert()); break;
      case v1::Stage::kTrain: *stage.mutable_train() = with_defaults(stage.train()); break;
      case v1::Stage::kEvaluate: *stage.mutable_evaluate() = with_defaults(stage.evaluate()); break;
      case v1::Stage::kExport: *stage.mutable_export_() = with_defaults(stage.export_()); break;
      case v1::Stage::kGate:
        if (!stage.gate().has_on_fail()) stage.mutable_gate()->set_on_fail("HOLD");
        continue;
      case v1::Stage::KIND_NOT_SET: continue;
    }
    if (!stage.has_seed()) stage.set_seed(defaults.seed());
    *stage.mutable_gang() = with_defaults(stage.gang(), defaults.gang());
  }
  return filled;
}

std::string to_json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  MOE_CHECK(status.ok(), status.ToString());
  return text;
}

}  // namespace moe
