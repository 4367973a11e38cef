#include <algorithm>

#include "common/error.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

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

std::optional<int> experts_of_export(const v1::Stage& stage) {
  return stage.export_().format() == "dense" ? std::optional<int>(0) : std::nullopt;
}

/// What a stage gives the routers of a mixture that no stock architecture has.
std::vector<std::string> unexportable_routers(const v1::Stage& origin) {
  std::vector<std::string> found;
  const std::string& balance = origin.train().balance();
  if (balance == "selection_bias" || balance == "quantile")
    found.push_back(concat("selection biases (train.balance ", balance, "; auxiliary needs none)"));
  const v1::RouterSpec& router = origin.convert().router();
  if (router.score() == "sigmoid") found.emplace_back("sigmoid scores (convert.router.score)");
  const bool is_one_each = router.topk_norm() == "unit" || router.topk_norm() == "straight_through";
  if (router.topk_norm() == "one_plus" || (is_one_each && origin.convert().ffn().top_k() > 1))
    found.push_back(concat("weights that do not sum to 1 (convert.router.topk_norm ", router.topk_norm(), ")"));
  return found;
}

/// `origins`: the last one first. What trains a model before it is converted, or one that is not, trains no router.
std::vector<std::string> refusal_warnings(const v1::Stage& stage, const std::vector<v1::Stage>& origins) {
  const std::string& format = stage.export_().format();
  if (format == "native" || format == "dense") return {};
  const auto conversion =
      std::find_if(origins.begin(), origins.end(), [](const v1::Stage& origin) { return origin.has_convert(); });
  if (conversion == origins.end()) return {};
  std::string causes;
  for (auto origin = origins.begin(); origin != conversion + 1; ++origin) {
    for (const std::string& found : unexportable_routers(*origin))
      causes += concat(causes.empty() ? "" : "; ", "stage ", stage_name(*origin), " gives routers ", found);
  }
  if (causes.empty()) return {};
  return {concat("export.format ", format, " will be refused: ", causes,
                 ": no stock architecture holds that; change it, or set export.format: native")};
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
      .origin_warnings = refusal_warnings,
      .experts = experts_of_export,
  };
}

}  // namespace moe
