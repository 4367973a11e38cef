#include "common/error.h"
#include "pipeline/kinds/export_warnings.h"
#include "pipeline/kinds/kinds.h"

/// export: a model for other programs, or dense again (docs/export.md).
namespace moe {
namespace {

void fill_export(v1::Stage& stage) {
  v1::ExportSpec& filled = *stage.mutable_export_();
  if (!filled.has_format()) filled.set_format("auto");
  if (!filled.has_dtype()) filled.set_dtype("bfloat16");
  if (!filled.has_max_shard_bytes()) filled.set_max_shard_bytes(5'000'000'000);
  if (!filled.has_pad_experts_to()) filled.set_pad_experts_to(0);
  if (!filled.has_allow_padding()) filled.set_allow_padding(false);
  if (!filled.has_keep_tied()) filled.set_keep_tied(false);
}

void check_export(const v1::Stage& stage, const FieldChecks& checks) {
  const v1::ExportSpec& spec = stage.export_();
  checks.known("format", spec.format(), "export_formats");
  checks.choice("dtype", spec.has_dtype(), spec.dtype(), {"bfloat16", "float32", "source"});
  checks.at_least<int64_t>("max_shard_bytes", spec.has_max_shard_bytes(), spec.max_shard_bytes(), 1);
  checks.at_least<int64_t>("pad_experts_to", spec.has_pad_experts_to(), spec.pad_experts_to(), 0);
}

std::optional<std::vector<int>> experts_of_export(const v1::Stage& stage) {
  return stage.export_().format() == "dense" ? std::optional(std::vector<int>()) : std::nullopt;
}

}  // namespace

JobKind export_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kExportedModel,
      .models = {"input"},
      .data = {},
      .effects =
          {
              {"ExportSpec.input", kContents},
              {"ExportSpec.format", kResult},
              {"ExportSpec.dtype", kResult},
              {"ExportSpec.max_shard_bytes", kResult},
              {"ExportSpec.pad_experts_to", kResult},
              {"ExportSpec.allow_padding", kResult},
              {"ExportSpec.keep_tied", kResult},
          },
      .fill = fill_export,
      .check = check_export,
      .plan =
          [](const v1::Stage& stage) { return concat("as ", stage.export_().format(), ", ", stage.export_().dtype()); },
      .origin_warnings = export_warnings,
      .experts = experts_of_export,
  };
}

}  // namespace moe
