#include "pipeline/kinds/convert_presets.h"

#include <map>
#include <string>

namespace moe {
namespace {

/// How a router begins and counts, and what its experts are scaled by.
struct Choices {
  const char* init = "random_selection";
  const char* gate = "linear";
  const char* noise = "none";
  const char* topk_norm = nullptr;  ///< by top_k
  const char* scale = "n_over_k";
  double fixed = 0;  ///< above 0: scale "fixed" with this value
};

/// A network of two layers with noise, of normal rows (llama-moe-v1 2.1, 2.2), and N / K (1.11).
constexpr Choices kLlamaMoeV1{.init = "normal", .gate = "mlp", .noise = "learned"};

/// By method; what is not named is as the default of Choices.
const std::map<std::string, Choices>& published_choices() {
  static const std::map<std::string, Choices> choices{
      {"independent_random", kLlamaMoeV1},
      {"independent_clustering", kLlamaMoeV1},
      {"independent_gradient", kLlamaMoeV1},
      {"sharing_inner", kLlamaMoeV1},
      {"coactivation", kLlamaMoeV1},
      // 7 + 1 experts, K = 1, S = 4 and the shared part at 1 (llama-moe-v1 2.6).
      {"sharing_inter", {.init = "normal", .gate = "mlp", .noise = "learned", .fixed = 4}},
      // llama-moe-v2 1.1, 1.3, 1.4, 3.1: 8 experts, k = 2, s = 4; 7 + 1, k = 1, s = 1.
      {"sequential", {.init = "kaiming"}},
      {"importance", {.init = "hidden_clustering"}},
      {"residual", {.init = "hidden_clustering", .fixed = 1}},
      // The plain sum of the chosen experts (ExpertWeaver), and each at 1 + gain p (CMoE).
      {"weave", {.topk_norm = "straight_through", .fixed = 1}},
      {"analytic", {.gate = "product", .topk_norm = "one_plus", .fixed = 1}},
      // Experts that are whole FFNs, or make one together with the others of their copy.
      {"upcycle", {.init = "normal", .fixed = 1}},
      {"merge", {.fixed = 1}},
  };
  return choices;
}

/// LLaMA-MoE v2 clusters the routers of feed-forward layers alone, and ships s_a = 4 (llama-moe-v2 2.1).
constexpr Choices kPublishedAttention{.init = "kaiming", .fixed = 4};
constexpr Choices kOurs{.scale = "least_squares"};

bool is_granular(const v1::FfnExpertsSpec& ffn) {
  const auto variant = ffn.options().find("variant");
  return ffn.method() == "upcycle" && variant != ffn.options().end() && variant->second == "granular";
}

Choices choices_of(const v1::FfnExpertsSpec& ffn, bool is_published) {
  if (!is_published) return kOurs;
  const auto found = published_choices().find(ffn.method());
  Choices choices = found == published_choices().end() ? Choices() : found->second;
  // Softmax over all experts first, which the paper found better (arXiv:2410.07524).
  if (is_granular(ffn)) choices.topk_norm = "raw";
  return choices;
}

void fill_router(v1::RouterSpec& router, const Choices& choices, int top_k, bool is_published) {
  if (!router.has_init()) router.set_init(choices.init);
  if (!router.has_gate()) router.set_gate(choices.gate);
  if (!router.has_noise()) router.set_noise(choices.noise);
  // The papers use rows as they are. Raw ones would saturate tanh.
  if (!router.has_scaling()) router.set_scaling(is_published && router.gate() != "mlp" ? "raw" : "calibrated");
  if (!router.has_topk_norm() && choices.topk_norm != nullptr) router.set_topk_norm(choices.topk_norm);
  // Renormalised over one expert, the weight is constantly 1 and the router would learn nothing.
  if (!router.has_topk_norm()) router.set_topk_norm(top_k == 1 ? "straight_through" : "renorm");
  if (!router.has_score()) router.set_score("softmax");
}

void fill_scale(v1::ScaleSpec& scale, const Choices& choices) {
  // Values without their mode are refused: they are not overwritten.
  if (choices.fixed > 0 && !scale.has_mode() && !scale.has_value() && scale.values().empty()) {
    scale.set_mode("fixed");
    scale.set_value(choices.fixed);
  }
  if (!scale.has_mode()) scale.set_mode(choices.scale);
  if (!scale.has_alignment()) scale.set_alignment("none");
}

}  // namespace

void fill_ffn_options(v1::FfnExpertsSpec& ffn, bool is_published) {
  // ExpertWeaver gives each layer a shared part of its own, unless the file says how large it is.
  if (is_published && ffn.method() == "weave" && !ffn.options().contains("shared"))
    (*ffn.mutable_options())["shared"] = ffn.shared_experts() > 0 ? "fixed" : "adaptive";
}

void fill_ffn_router(v1::RouterSpec& router, const v1::FfnExpertsSpec& ffn, bool is_published) {
  fill_router(router, choices_of(ffn, is_published), ffn.top_k(), is_published);
}

void fill_ffn_scale(v1::ScaleSpec& scale, const v1::FfnExpertsSpec& ffn, bool is_published) {
  fill_scale(scale, choices_of(ffn, is_published));
}

void fill_attention_router(v1::RouterSpec& router, int top_k, bool is_published) {
  fill_router(router, is_published ? kPublishedAttention : kOurs, top_k, is_published);
}

void fill_attention_scale(v1::ScaleSpec& scale, bool is_published) {
  fill_scale(scale, is_published ? kPublishedAttention : kOurs);
}

}  // namespace moe
