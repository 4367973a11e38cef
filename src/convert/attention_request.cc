#include "convert/attention_request.h"

#include <algorithm>
#include <vector>

#include "common/divisors.h"
#include "common/error.h"
#include "common/layer_ranges.h"
#include "convert/conversion.h"
#include "convert/head_groups.h"
#include "convert/output_scale.h"
#include "convert/request_check.h"
#include "convert/router_init.h"
#include "model/moe/router.h"

namespace moe {
namespace {

std::vector<bool> expert_layers(const v1::AttentionExpertsSpec& spec, const ModelConfig& config) {
  return chosen_layers({spec.layers().begin(), spec.layers().end()}, config.num_layers, "convert: attention.layers");
}

void check_window(const ConvertRequest& request) {
  const ModelConfig& config = request.source.config();
  if (config.attention_window) {
    throw InvalidArgument(concat("convert: attention does not apply to ", request.source.path().string(),
                                 ": its attention sees the last ", *config.attention_window,
                                 " tokens, and experts that see some of the tokens would count them otherwise; remove "
                                 "attention or give a model without a window"));
  }
}

void check_attention_experts(const ConvertRequest& request) {
  const ModelConfig& config = request.source.config();
  const v1::AttentionExpertsSpec& spec = request.spec.attention();
  if (spec.experts() < 1) {
    throw InvalidArgument(
        concat("convert: attention.experts is ", spec.experts(), "; use one of ", divisors_of(config.num_heads)));
  }
  if (const std::string problem = head_group_problem(config, spec); !problem.empty())
    throw InvalidArgument(concat("convert: ", request.source.path().string(), ": ", problem));
}

void check_attention_top_k(const ConvertRequest& request) {
  const v1::AttentionExpertsSpec& spec = request.spec.attention();
  if (spec.experts() < 1) return;  // check_attention_experts()
  if (spec.always_on() < 0 || spec.always_on() >= spec.experts()) {
    throw InvalidArgument(concat("convert: attention.always_on is ", spec.always_on(), " with attention.experts ",
                                 spec.experts(), "; use 0 to ", spec.experts() - 1));
  }
  const int routed = spec.experts() - spec.always_on();
  if (spec.top_k() < 1 || spec.top_k() > routed) {
    throw InvalidArgument(concat("convert: attention.top_k is ", spec.top_k(), " with ", routed,
                                 " experts to choose from; use 1 to ", routed));
  }
}

/// A method that makes more than FFNs anew leaves another attention than the one that experts are made of.
void check_method(const ConvertRequest& request) {
  const v1::ConvertSpec& spec = request.spec;
  const ConversionMethod& method = method_of(request);
  if (!method.ends || method.ends(request.source.config(), spec, MethodOptions(method.options, spec)).empty()) return;
  throw InvalidArgument(concat("convert: ffn.method ", spec.ffn().method(),
                               " makes attention, norms and embedding anew with these options, and attention's experts "
                               "are made of the input's; set ffn.options: {attention: base} or remove attention"));
}

void check_attention_router_init(const ConvertRequest& request) {
  const std::string& init = request.spec.attention().router().init();
  if (router_inits().at(init).needs_experts) {
    throw InvalidArgument(concat("convert: attention.router.init is '", init,
                                 "', which learns from experts of a feed-forward layer; use random_selection, "
                                 "hidden_clustering, pca, kaiming, normal or zero"));
  }
}

void check_attention_scale(const ConvertRequest& request) {
  const v1::AttentionExpertsSpec& spec = request.spec.attention();
  const int routed = spec.experts() - spec.always_on();
  if (routed < 1 || spec.top_k() < 1) return;
  const std::vector<bool> layers = expert_layers(spec, request.source.config());
  check_scale_spec(spec.scale(), routed, spec.top_k(), std::count(layers.begin(), layers.end(), true),
                   "attention.scale");
}

}  // namespace

const std::vector<RequestCheck>& attention_request_checks() {
  using Request = ConvertRequest;
  static const std::vector<RequestCheck> checks{
      {"attention.router.init", check_attention_router_init},
      {"attention.router.options",
       [](const Request& request) {
         router_init_options(request.spec.attention().router(), request.spec.preset(), "attention.");
       }},
      {"attention.router.topk_norm",
       [](const Request& request) { parse_topk_norm(request.spec.attention().router().topk_norm()); }},
      {"attention.router.score",
       [](const Request& request) { parse_router_score(router_score(request.spec.attention().router())); }},
      {"attention.router.scaling",
       [](const Request& request) {
         check_choice("attention.router.scaling", request.spec.attention().router().scaling(), {"calibrated", "raw"});
       }},
      {"attention.kv_mode",
       [](const Request& request) {
         check_choice("attention.kv_mode", request.spec.attention().kv_mode(), {"routed", "dense"});
       }},
      {"attention", check_window},
      {"attention.experts", check_attention_experts},
      {"attention.top_k", check_attention_top_k},
      {"attention.layers",
       [](const Request& request) { expert_layers(request.spec.attention(), request.source.config()); }},
      {"attention", check_method},
      {"attention.scale", check_attention_scale},
  };
  return checks;
}

std::string attention_text_reader(const v1::AttentionExpertsSpec& spec) {
  if (head_groupings().at(spec.grouping()).needs_text) return "attention.grouping " + spec.grouping();
  if (router_inits().at(spec.router().init()).needs_features) return "attention.router.init " + spec.router().init();
  return is_fitted(spec.scale()) ? "attention.scale.mode " + spec.scale().mode() : "";
}

AttentionExperts attention_experts_of(const v1::AttentionExpertsSpec& spec, const ModelConfig& config) {
  AttentionExperts experts;
  experts.num_experts = spec.experts();
  experts.top_k = spec.top_k();
  experts.always_on = spec.always_on();
  experts.query_heads = query_heads_of_expert(config, spec);
  experts.kv_heads = kv_heads_of_expert(config, spec);
  for (const bool is_in : expert_layers(spec, config)) experts.layers.push_back(is_in ? 1 : 0);
  experts.output_scale.assign(config.num_layers, 1);
  experts.score = router_score(spec.router());
  experts.topk_norm = spec.router().topk_norm();
  experts.kv_mode = spec.kv_mode();
  return experts;
}

}  // namespace moe
