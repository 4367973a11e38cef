#include "pipeline/kinds/convert_attention.h"

#include "common/error.h"
#include "common/layer_ranges.h"

namespace moe {
namespace {

/// What routers and scales of feed-forward experts may be and attention's are not.
void check_ffn_only(const v1::AttentionExpertsSpec& attention, const FieldChecks& checks) {
  const v1::RouterSpec& router = attention.router();
  const auto refuse = [&](const std::string& field, const std::string& value, const std::string& allowed) {
    checks.add(field,
               concat("is '", value, "', which attention's routers do not have; use ", allowed, " or remove it"));
  };
  if (router.init() == "distilled") {
    checks.add("router.init",
               "is 'distilled', which learns from experts of a feed-forward layer; use random_selection, "
               "hidden_clustering, pca, kaiming, normal or zero");
  }
  if (router.has_gate() && router.gate() != "linear") refuse("router.gate", router.gate(), "linear");
  if (router.has_noise() && router.noise() != "none") refuse("router.noise", router.noise(), "none");
  if (attention.scale().has_alignment() && attention.scale().alignment() != "none") {
    checks.add("scale.alignment", concat("is '", attention.scale().alignment(),
                                         "', and only feed-forward outputs are aligned; use none or remove it"));
  }
}

}  // namespace

void fill_attention_experts(v1::AttentionExpertsSpec& attention) {
  if (!attention.has_grouping()) attention.set_grouping("contiguous");
  if (!attention.has_kv_mode()) attention.set_kv_mode("routed");
  if (!attention.has_always_on()) attention.set_always_on(0);
}

void check_attention_experts(const v1::AttentionExpertsSpec& attention, const FieldChecks& checks) {
  if (attention.experts() < 1)
    checks.add("experts", concat("must be at least 1 (", attention.experts(), "); it has no default"));
  checks.at_least("always_on", attention.has_always_on(), attention.always_on(), 0);
  const int routed = attention.experts() - attention.always_on();
  if (attention.experts() >= 1 && attention.always_on() > 0 && routed < 1) {
    checks.add("always_on", concat("always_on ", attention.always_on(), " leaves no routed expert of ",
                                   attention.experts(), "; use at most ", attention.experts() - 1));
  } else if (attention.top_k() < 1) {
    checks.add("top_k", concat("must be at least 1 (", attention.top_k(), "); it has no default"));
  } else if (attention.experts() >= 1 && attention.top_k() > routed) {
    checks.add("top_k", concat("top_k ", attention.top_k(), " is greater than the ", routed,
                               " routed experts (experts ", attention.experts(), " less always_on ",
                               attention.always_on(), "); choose at most as many as there are"));
  }
  checks.choice("grouping", attention.has_grouping(), attention.grouping(), {"contiguous", "random", "clustered"});
  checks.choice("kv_mode", attention.has_kv_mode(), attention.kv_mode(), {"routed", "dense"});
  for (const LayerRangeProblem& problem : layer_range_problems({attention.layers().begin(), attention.layers().end()}))
    checks.add(concat("layers.", problem.item), problem.message);
  check_ffn_only(attention, checks);
}

bool attention_reads_text(const v1::AttentionExpertsSpec& attention) {
  return attention.grouping() == "clustered";
}

std::string attention_plan(const v1::AttentionExpertsSpec& attention) {
  const std::string layers = comma_separated({attention.layers().begin(), attention.layers().end()});
  return concat("attention in ", attention.experts(), " experts, top-", attention.top_k(),
                attention.always_on() > 0 ? concat(", ", attention.always_on(), " always on") : "",
                layers.empty() ? "" : concat(", layers ", layers));
}

}  // namespace moe
