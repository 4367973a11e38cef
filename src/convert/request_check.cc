#include "convert/request_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/divisors.h"
#include "common/error.h"
#include "common/layer_ranges.h"
#include "convert/attention_request.h"
#include "convert/conversion.h"
#include "convert/conversion_methods.h"
#include "convert/other_models.h"
#include "convert/output_scale.h"
#include "convert/router_init.h"
#include "model/moe/router.h"

namespace moe {

void check_choice(const char* field, const std::string& value, std::initializer_list<const char*> choices) {
  std::string known;
  for (const char* choice : choices) {
    if (value == choice) return;
    known += (known.empty() ? "" : ", ") + std::string(choice);
  }
  throw InvalidArgument(concat("convert: ", field, " is '", value, "'; expected one of ", known));
}

namespace {

void check_shared_experts(const ConvertRequest& request) {
  const ConversionMethod& method = method_of(request);
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  if (ffn.shared_experts() < 0 || (ffn.shared_experts() > 0 && !method.has_shared)) {
    throw InvalidArgument(concat("convert: ffn.shared_experts is ", ffn.shared_experts(),
                                 method.has_shared
                                     ? "; use 0 or more"
                                     : concat(", and ffn.method ", ffn.method(), " has no shared part; remove it")));
  }
}

/// Whether some layer has one, of as many experts as ffn.shared_experts says or of a width of its own.
bool has_shared_part(const ConvertRequest& request) {
  const ConversionMethod& method = method_of(request);
  const MethodOptions options(method.options, request.spec);
  return request.spec.ffn().shared_experts() > 0 || (method.shares_by_layer && method.shares_by_layer(options));
}

void check_shared_gate(const ConvertRequest& request) {
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  const SharedGateOptions gate = shared_gate_of(ffn);
  if (gate.gate == SharedGate::kNone) {
    if (!ffn.has_shared_gate_scale()) return;
    throw InvalidArgument(concat("convert: ffn.shared_gate_scale has no effect (", ffn.shared_gate_scale(),
                                 ") with ffn.shared_gate none; remove it"));
  }
  const std::string given = concat("convert: ffn.shared_gate is '", ffn.shared_gate(), "', and ");
  if (!has_shared_part(request)) {
    throw InvalidArgument(concat(given,
                                 method_of(request).has_shared
                                     ? "ffn.shared_experts is 0, so that it weighs nothing; use 1 or more"
                                     : concat("ffn.method ", ffn.method(), " has no shared part"),
                                 ", or remove it"));
  }
  if (gate.gate == SharedGate::kSoftmax && ffn.shared_experts() < 2) {
    throw InvalidArgument(concat(given, "ffn.shared_experts is ", ffn.shared_experts(),
                                 ": it weighs shared experts against each other; use 2 or more, or sigmoid"));
  }
  if (!(std::isfinite(gate.scale) && gate.scale > 0)) {
    throw InvalidArgument(concat("convert: ffn.shared_gate_scale is ", gate.scale, "; use a number greater than 0"));
  }
}

void check_expert_width(const ConvertRequest& request) {
  const ConversionMethod& method = method_of(request);
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  if (ffn.has_expert_width() && (!method.has_free_width || ffn.expert_width() < 1)) {
    throw InvalidArgument(concat("convert: ffn.expert_width is ", ffn.expert_width(),
                                 method.has_free_width
                                     ? "; use 1 or more"
                                     : concat(", and ffn.method ", ffn.method(), " makes its own widths; remove it")));
  }
}

void check_takes_others(const ConvertRequest& request) {
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  if (!ffn.others().empty() && !method_of(request).has_others) {
    throw InvalidArgument(concat("convert: ffn.others names ", ffn.others_size(), " models, and ffn.method ",
                                 ffn.method(), " takes from the input alone; remove it or set ffn.method: merge"));
  }
}

void check_experts(const ConvertRequest& request) {
  const ModelConfig& config = request.source.config();
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  if (ffn.experts() < 1) {
    throw InvalidArgument(
        concat("convert: ffn.experts is ", ffn.experts(), "; use one of ", divisors_of(config.intermediate_size)));
  }
  const ConversionMethod& method = method_of(request);
  const std::string problem = method.size_problem ? method.size_problem(config, ffn) : division_problem(config, ffn);
  if (!problem.empty()) throw InvalidArgument(concat("convert: ", request.source.path().string(), ": ", problem));
}

void check_top_k(const ConvertRequest& request) {
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  if (ffn.experts() < 1) return;  // check_experts()
  if (ffn.top_k() < 1 || ffn.top_k() > ffn.experts()) {
    throw InvalidArgument(concat("convert: ffn.top_k is ", ffn.top_k(), " with ffn.experts ", ffn.experts(),
                                 "; use 1 to ", ffn.experts()));
  }
}

/// What asks for calibration text; empty if nothing does.
std::string text_reader(const ConversionMethod& method, const v1::ConvertSpec& spec) {
  if (spec.has_ffn()) {
    if (method.needs.text()) return "ffn.method " + spec.ffn().method();
    if (!method.has_router && router_inits().at(spec.router().init()).needs_features)
      return "router.init " + spec.router().init();
    if (is_fitted(spec.scale())) return "scale.mode " + spec.scale().mode();
    if (alignment_of(spec) != "none") return "scale.alignment " + alignment_of(spec);
    if (spec.has_reconstruction()) return "reconstruction";
  }
  return spec.has_attention() ? attention_text_reader(spec.attention()) : "";
}

void check_calibration(const ConvertRequest& request) {
  const v1::ConvertSpec& spec = request.spec;
  const ConversionMethod& method = method_of(request);
  if (const std::string reader = text_reader(method, spec); spec.calibration().data().empty() && !reader.empty())
    throw InvalidArgument(concat("convert: calibration.data is empty, and ", reader, " needs text: list JSONL files"));
  if (needs_calibration(method, spec) && spec.calibration().tokens() < 1) {
    throw InvalidArgument(concat("convert: calibration.tokens is ", spec.calibration().tokens(),
                                 "; use 1 or more (4096 is the default)"));
  }
}

void check_router_init(const ConvertRequest& request) {
  const v1::RouterSpec& router = request.spec.router();
  const ConversionMethod& method = method_of(request);
  const RouterInit& init = router_inits().at(router.init());
  if (method.has_router || !init.needs_experts) return;
  if (router_gate(router) == RouterGate::kProduct) {
    throw InvalidArgument(concat("convert: router.gate is 'product', which router.init ", router.init(),
                                 " does not train; use linear or mlp"));
  }
  if (method.router_group) {
    throw InvalidArgument(concat("convert: router.init is '", router.init(), "', and experts of ffn.method ",
                                 request.spec.ffn().method(),
                                 " have the same neurons, so that no text tells them apart; use "
                                 "random_selection"));
  }
}

/// Options that are given and decide nothing.
void check_idle_options(const ConvertRequest& request) {
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  if (router_gate(request.spec.router()) != RouterGate::kProduct) return;
  for (const std::string& option : method_of(request).linear_router_options) {
    if (!ffn.options().contains(option)) continue;
    throw InvalidArgument(concat("convert: ffn.options.", option, " has no effect (", ffn.options().at(option),
                                 ") with router.gate product, which is not fitted; remove it or set router.gate: "
                                 "linear"));
  }
}

void check_router_gate(const ConvertRequest& request) {
  const v1::RouterSpec& router = request.spec.router();
  const ConversionMethod& method = method_of(request);
  const RouterGate gate = router_gate(router);
  if (!method.has_router) return;
  if (gate == RouterGate::kProduct && method.has_product_router && request.source.config().mlp_bias) {
    throw InvalidArgument(concat("convert: router.gate is 'product', and the FFN of ", request.source.path().string(),
                                 " has biases, which a product of rows has not; use "
                                 "linear"));
  }
  if (gate == RouterGate::kLinear || (gate == RouterGate::kProduct && method.has_product_router)) return;
  throw InvalidArgument(concat("convert: router.gate is '", router.gate(), "', and ffn.method ",
                               request.spec.ffn().method(), " makes its own router; use linear",
                               method.has_product_router ? " or product" : ", or remove it"));
}

/// What brings a layer to the output of the input's FFN, which is not what experts of other models are to give.
void check_targets(const ConvertRequest& request) {
  const v1::ConvertSpec& spec = request.spec;
  if (!method_of(request).has_others) return;
  const auto refuse = [&](const std::string& field, const char* what) {
    throw InvalidArgument(concat("convert: ", field, " ", what,
                                 " what the input's own FFNs give, and experts of ffn.method ", spec.ffn().method(),
                                 " are FFNs of other models; remove it"));
  };
  if (alignment_of(spec) != "none") refuse("scale.alignment " + alignment_of(spec), "scales every expert towards");
  if (spec.has_reconstruction()) refuse("reconstruction", "trains every expert to give");
}

void check_scale(const ConvertRequest& request) {
  const v1::ConvertSpec& spec = request.spec;
  if (spec.ffn().experts() < 1 || spec.ffn().top_k() < 1) return;
  const std::vector<bool> is_mixture = mixtures_of(spec, request.source.config());
  check_scale_spec(spec.scale(), spec.ffn().experts(), spec.ffn().top_k(),
                   std::count(is_mixture.begin(), is_mixture.end(), true), "scale");
}

void check_reconstruction(const ConvertRequest& request) {
  if (!request.spec.has_reconstruction()) return;
  if (!request.spec.has_ffn())
    throw InvalidArgument("convert: reconstruction trains feed-forward layers, and there is no ffn; remove it");
  const v1::ReconstructionSpec& spec = request.spec.reconstruction();
  check_choice("reconstruction.parameters", spec.parameters(), {"all", "experts", "router"});
  if (spec.steps() < 1)
    throw InvalidArgument(concat("convert: reconstruction.steps is ", spec.steps(), "; use 1 or more"));
  if (spec.batch_tokens() < 1)
    throw InvalidArgument(concat("convert: reconstruction.batch_tokens is ", spec.batch_tokens(), "; use 1 or more"));
  if (!std::isfinite(spec.learning_rate()) || spec.learning_rate() <= 0) {
    throw InvalidArgument(
        concat("convert: reconstruction.learning_rate is ", spec.learning_rate(), "; use a positive number"));
  }
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

/// The texts of one expert.
void check_texts(const v1::ExpertPrompts& prompts, const std::string& field) {
  if (prompts.positive().empty()) {
    throw InvalidArgument(
        concat("convert: ", field, ".positive is empty; give texts that the expert should be chosen for"));
  }
  for (const auto& [side, texts] : {std::pair("positive", &prompts.positive()), {"negative", &prompts.negative()}}) {
    for (int i = 0; i < texts->size(); ++i) {
      if (is_blank(texts->Get(i)))
        throw InvalidArgument(concat("convert: ", field, ".", side, ".", i, " is empty; give a text or remove it"));
    }
  }
}

void check_prompts(const ConvertRequest& request) {
  const ConversionMethod& method = method_of(request);
  const v1::FfnExpertsSpec& ffn = request.spec.ffn();
  const MethodOptions options(method.options, request.spec);
  if (prompt_needs(method, options) == PromptNeeds::kNone) {
    if (ffn.prompts().empty()) return;
    throw InvalidArgument(concat("convert: ffn.prompts has no effect with ffn.method ", ffn.method(),
                                 method.prompts ? " and these ffn.options" : "", "; remove it"));
  }
  if (ffn.prompts_size() != ffn.experts()) {
    throw InvalidArgument(concat("convert: ffn.prompts has ", ffn.prompts_size(), " entries for ", ffn.experts(),
                                 " experts; give one an expert, or set ffn.options.router: random"));
  }
  for (int expert = 0; expert < ffn.prompts_size(); ++expert)
    check_texts(ffn.prompts(expert), concat("ffn.prompts.", expert));
  if (request.text.tokenizer == nullptr) {
    throw InvalidArgument(concat("convert: ffn.prompts is text, and ", request.source.path().string(),
                                 " has no tokenizer; add tokenizer.json, or set ffn.options.router: random"));
  }
}

/// Of the feed-forward layers.
const std::vector<RequestCheck>& ffn_request_checks() {
  using Request = ConvertRequest;
  static const std::vector<RequestCheck> checks{
      {"ffn.method",
       [](const Request& request) {
         check_applies(request.spec.ffn().method(), method_of(request), request.source.config(),
                       request.source.path().string());
       }},
      {"router.init", check_router_init},
      {"router.options",
       [](const Request& request) { router_init_options(request.spec.router(), request.spec.preset()); }},
      {"router.gate", check_router_gate},
      {"router.noise",
       [](const Request& request) {
         if (request.spec.router().has_noise()) parse_router_noise(request.spec.router().noise());
       }},
      {"router.topk_norm", [](const Request& request) { parse_topk_norm(request.spec.router().topk_norm()); }},
      {"router.score", [](const Request& request) { parse_router_score(router_score(request.spec.router())); }},
      {"scale.alignment",
       [](const Request& request) {
         check_choice("scale.alignment", alignment_of(request.spec), {"none", "variance", "mean_variance"});
       }},
      {"ffn.others", check_targets},
      {"router.scaling",
       [](const Request& request) {
         check_choice("router.scaling", request.spec.router().scaling(), {"calibrated", "raw"});
       }},
      {"ffn.options", [](const Request& request) { MethodOptions(method_of(request).options, request.spec); }},
      {"ffn.options", check_idle_options},
      {"ffn.shared_experts", check_shared_experts},
      {"ffn.shared_gate", check_shared_gate},
      {"ffn.expert_width", check_expert_width},
      {"ffn.others", check_takes_others},
      {"ffn.experts", check_experts},
      {"ffn.top_k", check_top_k},
      {"ffn.layers", [](const Request& request) { mixtures_of(request.spec, request.source.config()); }},
      {"scale", check_scale},
  };
  return checks;
}

/// THE list of what a conversion has to fulfil, in the order in which it is told.
std::vector<RequestCheck> checks_of(const v1::ConvertSpec& spec) {
  std::vector<RequestCheck> checks{
      {"dtype",
       [](const ConvertRequest& request) {
         check_choice("dtype", request.spec.dtype(), {"source", "float32", "bfloat16"});
       }},
      {"",
       [](const ConvertRequest& request) {
         if (!request.spec.has_ffn() && !request.spec.has_attention())
           throw InvalidArgument("convert: neither ffn nor attention is given, so that nothing becomes experts");
       }},
  };
  const auto add = [&checks](const std::vector<RequestCheck>& more) {
    checks.insert(checks.end(), more.begin(), more.end());
  };
  if (spec.has_ffn()) add(ffn_request_checks());
  if (spec.has_attention()) add(attention_request_checks());
  add({{"calibration", check_calibration},
       {"reconstruction", check_reconstruction},
       {"ffn.others", check_others},
       {"ffn.prompts", check_prompts}});
  return checks;
}

}  // namespace

std::vector<bool> mixtures_of(const v1::ConvertSpec& spec, const ModelConfig& config) {
  if (!spec.has_ffn()) return std::vector<bool>(config.num_layers, false);
  return chosen_layers({spec.ffn().layers().begin(), spec.ffn().layers().end()}, config.num_layers,
                       "convert: ffn.layers");
}

bool needs_calibration(const ConversionMethod& method, const v1::ConvertSpec& spec) {
  return !spec.calibration().data().empty() || !text_reader(method, spec).empty();
}

RouterGate router_gate(const v1::RouterSpec& router) {
  return router.has_gate() ? parse_router_gate(router.gate()) : RouterGate::kLinear;
}

std::string router_score(const v1::RouterSpec& router) {
  return router.has_score() ? router.score() : "softmax";
}

SharedGateOptions shared_gate_of(const v1::FfnExpertsSpec& ffn) {
  if (!ffn.has_shared_gate()) return {};
  return {parse_shared_gate(ffn.shared_gate()), ffn.shared_gate_scale()};
}

std::string alignment_of(const v1::ConvertSpec& spec) {
  return spec.scale().has_alignment() ? spec.scale().alignment() : "none";
}

void check_applies(const std::string& name, const ConversionMethod& method, const ModelConfig& config,
                   const std::string& where) {
  const std::string reason = method.refusal ? method.refusal(config) : "";
  if (!reason.empty()) {
    throw InvalidArgument(concat("convert: ffn.method ", name, " does not apply to ", where, ": ", reason,
                                 "; use one of ", conversion_methods().known()));
  }
}

void check_is_dense(const ModelDirectory& model, const std::string& section) {
  if (!model.config().moe) return;
  const MoeConfig& moe = *model.config().moe;
  const int64_t experts = moe.num_experts == 0 && moe.attention ? moe.attention->num_experts : moe.num_experts;
  throw InvalidArgument(concat("convert: ", section, model.path().string(), " is a mixture of experts already (",
                               experts, " experts); give a dense model"));
}

std::vector<RequestProblem> request_problems(const ConvertRequest& request) {
  std::vector<RequestProblem> found;
  const auto try_it = [&](const RequestCheck& check) {
    try {
      check.check(request);
    } catch (const InvalidArgument& error) {
      // A bad option is in the way of several checks.
      const std::string message = error.what();
      const bool is_known = std::any_of(found.begin(), found.end(),
                                        [&](const RequestProblem& other) { return other.message == message; });
      if (!is_known) found.push_back({check.field, message});
    }
  };
  try_it({"input", [](const ConvertRequest& asked) { check_is_dense(asked.source, ""); }});
  if (!found.empty()) return found;  // what would be true of the dense model is not known
  for (const RequestCheck& check : checks_of(request.spec)) try_it(check);
  return found;
}

void check_request(const ConvertRequest& request) {
  std::string all;
  for (const RequestProblem& problem : request_problems(request)) all += (all.empty() ? "" : "\n") + problem.message;
  if (!all.empty()) throw InvalidArgument(all);
  MOE_CHECK(!request.spec.has_reconstruction() || (request.train_layer && !request.kept_layers.empty()),
            "nobody trains the layers, or keeps them");
}

}  // namespace moe
