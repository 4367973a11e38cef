#include "common/error.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"

/// convert: a dense model becomes a mixture of experts.
namespace moe {
namespace {

v1::ConvertSpec filled_convert(const v1::ConvertSpec& convert) {
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

void check_scale(const v1::ConvertSpec& convert, const v1::ConvertSpec& effective, const FieldChecks& checks) {
  const bool is_fixed = effective.scale_mode() == "fixed";
  if (is_fixed && !convert.has_output_scale()) {
    checks.add("output_scale", "missing; scale_mode 'fixed' needs the scale of every layer");
  } else if (!is_fixed && convert.has_output_scale()) {
    checks.add("output_scale", concat("has no effect (", convert.output_scale(), ") with scale_mode '",
                                      effective.scale_mode(), "'; set scale_mode: fixed or remove it"));
  }
  checks.positive("output_scale", convert.has_output_scale(), convert.output_scale());
}

void check_calibration(const v1::ConvertSpec& convert, const v1::ConvertSpec& effective, const FieldChecks& checks) {
  if (convert.calibration().empty() && effective.router_init() == "random_selection") {
    checks.add("calibration",
               "missing; router_init 'random_selection' needs calibration text: list JSONL files, or set "
               "router_init: kaiming");
  }
  if (convert.calibration().empty() && effective.scale_mode() == "least_squares") {
    checks.add("calibration",
               "missing; scale_mode 'least_squares' needs calibration text: list JSONL files, or set "
               "scale_mode: n_over_k");
  }
  checks.sources("calibration", convert.calibration(), false);
  checks.at_least<int64_t>("calibration_tokens", convert.has_calibration_tokens(), convert.calibration_tokens(), 1);
}

void check_convert(const v1::Stage& stage, const FieldChecks& checks) {
  const v1::ConvertSpec& convert = stage.convert();
  if (convert.method().empty()) {
    checks.add("method", concat("missing; name a conversion method", suggestion("", checks.known_names("methods"))));
  }
  checks.known("method", convert.method(), "methods");
  if (convert.experts() < 1)
    checks.add("experts", concat("must be at least 1 (", convert.experts(), "); it has no default"));
  if (convert.top_k() < 1) {
    checks.add("top_k", concat("must be at least 1 (", convert.top_k(), "); it has no default"));
  } else if (convert.experts() >= 1 && convert.top_k() > convert.experts()) {
    checks.add("top_k", concat("top_k ", convert.top_k(), " is greater than experts ", convert.experts(),
                               "; choose at most as many experts as there are"));
  }
  checks.known("router_init", convert.router_init(), "router_inits");
  checks.choice("router_scaling", convert.has_router_scaling(), convert.router_scaling(), {"calibrated", "raw"});
  checks.choice("scale_mode", convert.has_scale_mode(), convert.scale_mode(),
                {"least_squares", "n_over_k", "k", "energy", "unbiased", "fixed"});
  checks.choice("topk_norm", convert.has_topk_norm(), convert.topk_norm(), {"renorm", "straight_through", "raw"});
  checks.choice("preset", convert.has_preset(), convert.preset(), {"ours", "published"});
  checks.choice("dtype", convert.has_dtype(), convert.dtype(), {"source", "float32", "bfloat16"});
  const v1::ConvertSpec effective = filled_convert(convert);
  check_scale(convert, effective, checks);
  check_calibration(convert, effective, checks);
  checks.known("template", convert.template_(), "templates");
}

/// One expert's weight renormalised is 1, whatever its logit.
std::vector<std::string> router_gradient_warning(const v1::Stage& stage) {
  const v1::ConvertSpec& convert = stage.convert();
  if (convert.top_k() != 1 || convert.topk_norm() != "renorm" || convert.experts() < 2) return {};
  return {
      "topk_norm renorm with top_k 1 gives each token's only expert the weight 1 whatever the router says, so the loss "
      "gives the router no gradient and training moves it by the balance loss alone; use straight_through (the default "
      "for top_k 1) or raw"};
}

}  // namespace

JobKind convert_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kConvertedModel,
      .models = {"input"},
      .data = {"calibration"},
      .effects =
          {
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
              // Nothing is reported under the names of these.
              {"convert.calibration.domain", kBookkeeping},
          },
      .fill = [](v1::Stage& stage) { *stage.mutable_convert() = filled_convert(stage.convert()); },
      .check = check_convert,
      .plan =
          [](const v1::Stage& stage) {
            const v1::ConvertSpec& convert = stage.convert();
            return concat(convert.method(), ", ", convert.experts(), " experts, top-", convert.top_k());
          },
      .warnings = router_gradient_warning,
      .experts = [](const v1::Stage& stage) { return stage.convert().experts(); },
  };
}

}  // namespace moe
