#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/layer_ranges.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/convert_attention.h"
#include "pipeline/kinds/convert_merge.h"
#include "pipeline/kinds/convert_own_router.h"
#include "pipeline/kinds/convert_presets.h"
#include "pipeline/kinds/convert_reconstruction.h"
#include "pipeline/kinds/convert_shared_gate.h"
#include "pipeline/kinds/kinds.h"

/// convert: a dense model becomes a mixture of experts.
namespace moe {
namespace {

/// Feed-forward layers become experts unless attention alone is named.
bool converts_ffn(const v1::ConvertSpec& convert) {
  return convert.has_ffn() || !convert.has_attention();
}

v1::ConvertSpec filled_convert(const v1::ConvertSpec& convert) {
  v1::ConvertSpec filled = convert;
  const bool is_published = convert.preset() == "published";
  if (!filled.has_preset()) filled.set_preset("ours");
  if (!filled.has_dtype()) filled.set_dtype("source");
  if (converts_ffn(convert)) {
    v1::FfnExpertsSpec& ffn = *filled.mutable_ffn();
    if (!ffn.has_shared_experts()) ffn.set_shared_experts(0);
    ffn.set_experts(expert_count(ffn));
    fill_ffn_options(ffn, is_published);
    fill_shared_gate(ffn);
    fill_ffn_router(*filled.mutable_router(), ffn, is_published);
    fill_ffn_scale(*filled.mutable_scale(), ffn, is_published);
  }
  if (convert.has_attention()) {
    v1::AttentionExpertsSpec& attention = *filled.mutable_attention();
    fill_attention_experts(attention);
    fill_attention_router(*attention.mutable_router(), attention.top_k(), is_published);
    fill_attention_scale(*attention.mutable_scale(), is_published);
  }
  if (convert.has_reconstruction()) fill_reconstruction(*filled.mutable_reconstruction());
  v1::CalibrationSpec& calibration = *filled.mutable_calibration();
  if (!calibration.has_tokens()) calibration.set_tokens(4096);
  fill_sources(*calibration.mutable_data());
  return filled;
}

/// Options are the owner's own: their names are known here, what they may be is checked where the owners are. `list`
/// and `owners` name lists of KnownNames.
void check_options(const google::protobuf::Map<std::string, std::string>& options, const std::string& section,
                   const std::string& kind, const std::string& owner, const std::string& list,
                   const std::string& owners, const FieldChecks& checks) {
  const std::vector<std::string> all = checks.known_names(list);
  const std::string prefix = owner + ".";
  std::vector<std::string> own;
  for (const std::string& name : all) {
    if (name.rfind(prefix, 0) == 0) own.push_back(name.substr(prefix.size()));
  }
  const std::vector<std::string> known = checks.known_names(owners);
  const bool is_unknown = !known.empty() && std::find(known.begin(), known.end(), owner) == known.end();
  if (all.empty() || is_unknown) return;
  for (const auto& [name, value] : options) {
    if (std::find(own.begin(), own.end(), name) != own.end()) continue;
    checks.add(section + "." + name, concat("unknown option (", name, ") of ", kind, " ", owner,
                                            own.empty() ? std::string("; it has none") : suggestion(name, own)));
  }
}

void check_ffn(const v1::FfnExpertsSpec& ffn, const FieldChecks& checks) {
  if (ffn.method().empty()) {
    checks.add("ffn.method",
               concat("missing; name a conversion method", suggestion("", checks.known_names("methods"))));
  }
  checks.known("ffn.method", ffn.method(), "methods");
  if (ffn.experts() < 1)
    checks.add("ffn.experts", concat("must be at least 1 (", ffn.experts(), "); it has no default"));
  if (ffn.top_k() < 1) {
    checks.add("ffn.top_k", concat("must be at least 1 (", ffn.top_k(), "); it has no default"));
  } else if (ffn.experts() >= 1 && ffn.top_k() > ffn.experts()) {
    checks.add("ffn.top_k", concat("top_k ", ffn.top_k(), " is greater than experts ", ffn.experts(),
                                   "; choose at most as many experts as there are"));
  }
  checks.at_least("ffn.shared_experts", ffn.has_shared_experts(), ffn.shared_experts(), 0);
  check_shared_gate(ffn, checks);
  checks.at_least("ffn.expert_width", ffn.has_expert_width(), ffn.expert_width(), 1);
  for (const LayerRangeProblem& problem : layer_range_problems({ffn.layers().begin(), ffn.layers().end()}))
    checks.add(concat("ffn.layers.", problem.item), problem.message);
  check_options(ffn.options(), "ffn.options", "method", ffn.method(), "method_options", "methods", checks);
}

/// `init`: of the effective spec.
void check_router(const v1::RouterSpec& router, const std::string& init, const FieldChecks& checks) {
  checks.known("router.init", router.init(), "router_inits");
  checks.choice("router.scaling", router.has_scaling(), router.scaling(), {"calibrated", "raw"});
  checks.choice("router.topk_norm", router.has_topk_norm(), router.topk_norm(),
                {"renorm", "straight_through", "raw", "unit", "one_plus"});
  checks.choice("router.score", router.has_score(), router.score(), {"softmax", "sigmoid"});
  checks.choice("router.gate", router.has_gate(), router.gate(), {"linear", "mlp", "product"});
  checks.choice("router.noise", router.has_noise(), router.noise(), {"none", "learned", "gumbel"});
  check_options(router.options(), "router.options", "router init", init, "router_init_options", "router_inits", checks);
}

/// How many there must be is known to who converts.
void check_scale_values(const v1::ScaleSpec& scale, const v1::ScaleSpec& effective, const FieldChecks& checks) {
  const bool is_per_layer = effective.mode() == "per_layer";
  if (is_per_layer && scale.values().empty()) {
    checks.add("scale.values",
               "missing; scale.mode 'per_layer' needs a scale of each layer that becomes experts, in their order");
  } else if (!is_per_layer && !scale.values().empty()) {
    checks.add("scale.values", concat("have no effect with scale.mode '", effective.mode(),
                                      "'; set scale.mode: per_layer or remove them"));
  }
  for (int i = 0; i < scale.values_size(); ++i) {
    const double value = scale.values(i);
    if (!(std::isfinite(value) && value > 0))
      checks.add(concat("scale.values.", i), concat("must be a number greater than 0 (", value, ")"));
  }
}

void check_scale(const v1::ScaleSpec& scale, const v1::ScaleSpec& effective, const FieldChecks& checks) {
  checks.choice("scale.mode", scale.has_mode(), scale.mode(),
                {"least_squares", "n_over_k", "k", "sqrt_n_over_k", "energy", "unbiased", "fixed", "gap", "per_layer"});
  check_scale_values(scale, effective, checks);
  const bool is_fixed = effective.mode() == "fixed";
  if (is_fixed && !effective.has_value()) {
    checks.add("scale.value", "missing; scale.mode 'fixed' needs the scale of every layer");
  } else if (!is_fixed && scale.has_value()) {
    checks.add("scale.value", concat("has no effect (", scale.value(), ") with scale.mode '", effective.mode(),
                                     "'; set scale.mode: fixed or remove it"));
  }
  checks.positive("scale.value", scale.has_value(), scale.value());
  checks.choice("scale.alignment", scale.has_alignment(), scale.alignment(), {"none", "variance", "mean_variance"});
}

/// Whether the method is in a list of KnownNames.
bool is_among(const std::string& method, const std::string& list, const FieldChecks& checks) {
  const std::vector<std::string> names = checks.known_names(list);
  return std::find(names.begin(), names.end(), method) != names.end();
}

/// Where no method is known, several models as experts tell of one that brings a router.
bool brings_router(const v1::FfnExpertsSpec& ffn, const FieldChecks& checks) {
  return is_among(ffn.method(), "methods_with_router", checks) ||
         (!ffn.others().empty() && checks.known_names("methods").empty());
}

v1::RouterSpec usual_router(v1::ConvertSpec convert) {
  convert.mutable_router()->clear_init();
  convert.mutable_router()->clear_scaling();
  return filled_convert(convert).router();
}

void check_calibration(const v1::CalibrationSpec& calibration, const v1::ConvertSpec& effective,
                       const FieldChecks& checks) {
  const v1::FfnExpertsSpec& ffn = effective.ffn();
  const auto readers = [&](const std::string& prefix, const v1::RouterSpec& router, const v1::ScaleSpec& scale,
                           bool is_router_made) {
    if (is_router_made && (router.init() == "random_selection" || router.init() == "hidden_clustering" ||
                           router.init() == "pca" || router.init() == "distilled")) {
      checks.add("calibration.data",
                 concat("missing; ", prefix, "router.init '", router.init(),
                        "' needs calibration text: list JSONL files, or set ", prefix, "router.init: kaiming"));
    }
    if (scale.mode() == "least_squares" || scale.mode() == "gap") {
      checks.add("calibration.data",
                 concat("missing; ", prefix, "scale.mode '", scale.mode(),
                        "' needs calibration text: list JSONL files, or set ", prefix, "scale.mode: n_over_k"));
    }
  };
  if (calibration.data().empty()) {
    if (const std::string& alignment = effective.scale().alignment(); effective.has_ffn() && alignment != "none") {
      checks.add("calibration.data", concat("missing; scale.alignment '", alignment,
                                            "' needs calibration text: list JSONL files, or remove it"));
    }
    if (effective.has_reconstruction()) {
      checks.add("calibration.data",
                 "missing; reconstruction trains on calibration text: list JSONL files, or remove it");
    }
    if (effective.has_ffn() && is_among(ffn.method(), "methods_with_text", checks)) {
      checks.add("calibration.data",
                 concat("missing; ffn.method '", ffn.method(), "' needs calibration text: list JSONL files"));
    } else if (effective.has_ffn()) {
      readers("", effective.router(), effective.scale(), !brings_router(ffn, checks));
    }
    if (effective.has_attention())
      readers("attention.", effective.attention().router(), effective.attention().scale(), true);
    if (attention_reads_text(effective.attention())) {
      checks.add("calibration.data", concat("missing; attention.grouping '", effective.attention().grouping(),
                                            "' needs calibration text: list JSONL files, or set attention.grouping: "
                                            "contiguous"));
    }
  }
  checks.sources("calibration.data", calibration.data(), false);
  checks.at_least<int64_t>("calibration.tokens", calibration.has_tokens(), calibration.tokens(), 1);
  checks.known("calibration.template", calibration.template_(), "templates");
}

void check_convert(const v1::Stage& stage, const FieldChecks& checks) {
  const v1::ConvertSpec& convert = stage.convert();
  checks.choice("preset", convert.has_preset(), convert.preset(), {"ours", "published"});
  checks.choice("dtype", convert.has_dtype(), convert.dtype(), {"source", "float32", "bfloat16"});
  const v1::ConvertSpec effective = filled_convert(convert);
  if (converts_ffn(convert)) {
    check_ffn(effective.ffn(), checks);
    check_merged_models(effective, checks);
    check_router(convert.router(), effective.router().init(), checks);
    if (brings_router(effective.ffn(), checks))
      check_own_router(convert.router(), usual_router(convert), effective.ffn().method(), checks);
    check_scale(convert.scale(), effective.scale(), checks);
  } else {
    for (const auto& [field, is_set] : {std::pair{"router", convert.has_router()}, {"scale", convert.has_scale()}}) {
      if (!is_set) continue;
      checks.add(field, concat("has no effect without ffn: it is of the feed-forward layers' experts; write it as "
                               "attention.",
                               field, " or remove it"));
    }
  }
  if (convert.has_attention()) {
    const v1::AttentionExpertsSpec& attention = convert.attention();
    const FieldChecks within = checks.within("attention");
    check_attention_experts(attention, within);
    check_router(attention.router(), effective.attention().router().init(), within);
    check_scale(attention.scale(), effective.attention().scale(), within);
  }
  if (convert.has_reconstruction()) {
    if (converts_ffn(convert)) {
      check_reconstruction(effective, checks.within("reconstruction"));
    } else {
      checks.add("reconstruction", "has no effect without ffn: feed-forward layers are trained; remove it");
    }
  }
  check_calibration(convert.calibration(), effective, checks);
}

/// One expert's weight renormalised is 1, whatever its logit; unit weights are that of any number of experts. `section`
/// is "" or "attention.", `top_k_field` "ffn.top_k" or "attention.top_k".
std::vector<std::string> weightless_router(const std::string& section, const v1::RouterSpec& router, int experts,
                                           const std::string& top_k_field, int top_k) {
  if (router.topk_norm() == "unit" && experts > top_k) {
    return {concat(
        section,
        "router.topk_norm unit gives every chosen expert the weight 1 whatever the router says, so the loss gives the "
        "router no gradient and training moves it by the balance loss alone; straight_through has the same weights "
        "and a gradient")};
  }
  if (top_k != 1 || router.topk_norm() != "renorm" || experts < 2) return {};
  return {concat(
      section, "router.topk_norm renorm with ", top_k_field,
      " 1 gives each token's only expert the weight 1 whatever the router says, "
      "so the loss gives the router no gradient and training moves it by the balance loss alone; use straight_through "
      "(the default for top_k 1) or raw")};
}

std::vector<std::string> router_gradient_warnings(const v1::Stage& stage) {
  const v1::ConvertSpec& convert = stage.convert();
  std::vector<std::string> warnings;
  if (convert.has_ffn())
    warnings = weightless_router("", convert.router(), convert.ffn().experts(), "ffn.top_k", convert.ffn().top_k());
  if (convert.has_attention()) {
    const v1::AttentionExpertsSpec& attention = convert.attention();
    const std::vector<std::string> more =
        weightless_router("attention.", attention.router(), attention.experts() - attention.always_on(),
                          "attention.top_k", attention.top_k());
    warnings.insert(warnings.end(), more.begin(), more.end());
  }
  return warnings;
}

std::string plan_of(const v1::ConvertSpec& convert) {
  std::string plan;
  if (convert.has_ffn()) {
    const v1::FfnExpertsSpec& ffn = convert.ffn();
    const std::string layers = comma_separated({ffn.layers().begin(), ffn.layers().end()});
    plan = concat(
        ffn.method(), ", ", ffn.experts(), " experts, top-", ffn.top_k(),
        layers.empty() ? "" : concat(", layers ", layers),
        convert.has_reconstruction() ? concat(", reconstructed in ", convert.reconstruction().steps(), " steps") : "");
  }
  if (!convert.has_attention()) return plan;
  return concat(plan, plan.empty() ? "" : "; ", attention_plan(convert.attention()));
}

std::vector<int> experts_of_parts(const v1::ConvertSpec& convert) {
  std::vector<int> experts;
  if (convert.has_ffn()) experts.push_back(expert_count(convert.ffn()));
  if (convert.has_attention()) experts.push_back(convert.attention().experts());
  return experts;
}

}  // namespace

JobKind convert_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kConvertedModel,
      .models = {"input", "ffn.others"},
      .data = {"calibration.data"},
      .effects =
          {
              {"ConvertSpec.input", kContents},
              // Options of methods and of router inits have their defaults of it, which are not filled in.
              {"ConvertSpec.preset", kResult},
              {"ConvertSpec.dtype", kResult},
              {"FfnExpertsSpec.method", kResult},
              {"FfnExpertsSpec.experts", kResult},
              {"FfnExpertsSpec.top_k", kResult},
              {"FfnExpertsSpec.shared_experts", kResult},
              {"FfnExpertsSpec.shared_gate", kResult},
              {"FfnExpertsSpec.shared_gate_scale", kResult},
              {"FfnExpertsSpec.layers", kResult},
              {"FfnExpertsSpec.expert_width", kResult},
              {"FfnExpertsSpec.options", kResult},
              {"FfnExpertsSpec.others", kContents},
              {"ExpertPrompts.positive", kResult},
              {"ExpertPrompts.negative", kResult},
              {"AttentionExpertsSpec.experts", kResult},
              {"AttentionExpertsSpec.top_k", kResult},
              {"AttentionExpertsSpec.grouping", kResult},
              {"AttentionExpertsSpec.kv_mode", kResult},
              {"AttentionExpertsSpec.always_on", kResult},
              {"AttentionExpertsSpec.layers", kResult},
              {"RouterSpec.init", kResult},
              {"RouterSpec.scaling", kResult},
              {"RouterSpec.topk_norm", kResult},
              {"RouterSpec.score", kResult},
              {"RouterSpec.gate", kResult},
              {"RouterSpec.noise", kResult},
              {"RouterSpec.options", kResult},
              {"ScaleSpec.mode", kResult},
              {"ScaleSpec.value", kResult},
              {"ScaleSpec.values", kResult},
              {"ScaleSpec.alignment", kResult},
              {"ReconstructionSpec.steps", kResult},
              {"ReconstructionSpec.learning_rate", kResult},
              {"ReconstructionSpec.batch_tokens", kResult},
              {"ReconstructionSpec.parameters", kResult},
              {"CalibrationSpec.tokens", kResult},
              {"CalibrationSpec.template", kResult},
              // Nothing is reported under the names of these.
              {"convert.calibration.data.domain", kBookkeeping},
          },
      .fill = [](v1::Stage& stage) { *stage.mutable_convert() = filled_convert(stage.convert()); },
      .check = check_convert,
      .plan = [](const v1::Stage& stage) { return plan_of(stage.convert()); },
      // Before there were sections.
      .moved = {{"method", 2, "ffn.method"},
                {"experts", 3, "ffn.experts"},
                {"top_k", 4, "ffn.top_k"},
                {"router_init", 5, "router.init"},
                {"router_scaling", 6, "router.scaling"},
                {"scale_mode", 7, "scale.mode"},
                {"output_scale", 8, "scale.value"},
                {"calibration", 9, "calibration.data"},
                {"calibration_tokens", 10, "calibration.tokens"},
                {"topk_norm", 11, "router.topk_norm"},
                {"template", 14, "calibration.template"}},
      .warnings = router_gradient_warnings,
      .experts = [](const v1::Stage& stage) { return experts_of_parts(stage.convert()); },
  };
}

}  // namespace moe
