#include "pipeline/kinds/export_warnings.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "common/error.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

/// The conversion, and the trainings of what it made.
struct Making {
  const v1::Stage* conversion = nullptr;
  const v1::Stage* biased = nullptr;  ///< the last training that leaves selection biases, or null

  const v1::ConvertSpec& convert() const { return conversion->convert(); }
  const v1::RouterSpec& router() const { return convert().router(); }
  bool is_top1() const { return convert().ffn().top_k() == 1; }
  /// Several experts that count in full each.
  bool has_ones() const {
    return !is_top1() && (router().topk_norm() == "unit" || router().topk_norm() == "straight_through");
  }
  /// Whether a weight or a choice is of the scores, and not of the order of logits alone.
  bool uses_scores() const {
    return biased != nullptr || router().topk_norm() == "raw" || (router().topk_norm() == "renorm" && !is_top1());
  }
};

using Causes = std::vector<std::string>;

std::string given_by(const v1::Stage& stage, const std::string& what) {
  return concat("stage ", stage_name(stage), " gives ", what);
}

/// Of no stock format.
Causes causes_everywhere(const Making& making) {
  Causes causes;
  const auto add = [&](const std::string& what) { causes.push_back(given_by(*making.conversion, what)); };
  if (making.convert().has_attention()) add("attention experts (convert.attention)");
  if (making.router().topk_norm() == "one_plus")
    add("routers weights that do not sum to 1 (convert.router.topk_norm one_plus)");
  if (making.router().has_gate() && making.router().gate() != "linear")
    add(concat("routers that are not one linear layer (convert.router.gate ", making.router().gate(), ")"));
  if (making.convert().scale().alignment() == "mean_variance")
    add("layers output biases (convert.scale.alignment mean_variance)");
  return causes;
}

/// Of formats whose routers take softmaxes.
void add_softmax_causes(const std::string& format, const std::string& dtype, const Making& making, Causes& causes) {
  const v1::RouterSpec& router = making.router();
  const auto add = [&](const std::string& what) { causes.push_back(given_by(*making.conversion, what)); };
  if (making.biased != nullptr) {
    causes.push_back(given_by(*making.biased, concat("routers selection biases (train.balance ",
                                                     making.biased->train().balance(), "; auxiliary needs none)")));
  }
  if (router.score() == "sigmoid" && making.uses_scores()) add("routers sigmoid scores (convert.router.score)");
  if (router.topk_norm() == "raw" && format != "qwen2_moe")
    add("routers weights that are not renormalised (convert.router.topk_norm raw)");
  if (!making.has_ones()) return;
  const int top_k = making.convert().ffn().top_k();
  const std::string ones =
      concat("each of ", top_k, " experts the weight 1 (convert.router.topk_norm ", router.topk_norm(), ")");
  if (format != "granitemoeshared") {
    add(ones);
  } else if (dtype == "bfloat16" && !std::has_single_bit(static_cast<uint32_t>(top_k))) {
    add(ones + ", which takes export.dtype float32");
  }
}

void add_sigmoid_causes(const Making& making, Causes& causes) {
  const v1::RouterSpec& router = making.router();
  const auto add = [&](const std::string& what) { causes.push_back(given_by(*making.conversion, what)); };
  if (router.score() != "sigmoid") add(concat("routers ", router.score(), " scores (convert.router.score)"));
  if (making.has_ones()) {
    add(concat("each of ", making.convert().ffn().top_k(), " experts the weight 1 (convert.router.topk_norm ",
               router.topk_norm(), ")"));
  }
}

Causes causes_against(const std::string& format, const std::string& dtype, const Making& making) {
  Causes causes = causes_everywhere(making);
  const std::string& gate = making.convert().ffn().shared_gate();
  if (gate == "softmax" || (gate == "sigmoid" && format != "qwen2_moe"))
    causes.push_back(
        given_by(*making.conversion, concat("shared experts a gate (convert.ffn.shared_gate ", gate, ")")));
  if (format == "glm4_moe" || format == "solar_open") {
    add_sigmoid_causes(making, causes);
  } else {
    add_softmax_causes(format, dtype, making, causes);
  }
  return causes;
}

/// Of the format nearest to what is asked for: none if one fits.
Causes least_causes(const v1::ExportSpec& spec, const Making& making) {
  if (spec.format() != "auto") return causes_against(spec.format(), spec.dtype(), making);
  // Of formats with as few causes the first is named: the one that its scores, or its weights of 1, come nearest to.
  std::vector<std::string> formats{"mixtral", "granitemoeshared", "qwen2_moe", "glm4_moe"};
  if (making.has_ones() && making.biased == nullptr) {
    std::swap(formats[0], formats[1]);
  } else if (making.router().score() == "sigmoid") {
    std::reverse(formats.begin(), formats.end());
  }
  std::vector<Causes> all;
  for (const std::string& format : formats) all.push_back(causes_against(format, spec.dtype(), making));
  return *std::min_element(all.begin(), all.end(),
                           [](const Causes& a, const Causes& b) { return a.size() < b.size(); });
}

bool leaves_selection_biases(const v1::Stage& stage) {
  return stage.train().balance() == "selection_bias" || stage.train().balance() == "quantile";
}

}  // namespace

std::vector<std::string> export_warnings(const v1::Stage& stage, const std::vector<v1::Stage>& origins) {
  const v1::ExportSpec& spec = stage.export_();
  if (spec.format() == "native" || spec.format() == "dense") return {};
  const auto conversion =
      std::find_if(origins.begin(), origins.end(), [](const v1::Stage& origin) { return origin.has_convert(); });
  if (conversion == origins.end()) return {};
  // What trains a model before it is converted, or one that is not, trains no router.
  const auto biased = std::find_if(origins.begin(), conversion, leaves_selection_biases);
  const Making making{&*conversion, biased == conversion ? nullptr : &*biased};
  const Causes causes = least_causes(spec, making);
  if (causes.empty()) return {};
  std::string text;
  for (const std::string& cause : causes) text += (text.empty() ? "" : "; ") + cause;
  const bool would_fit = making.biased != nullptr && making.router().score() != "sigmoid" && !making.has_ones();
  return {concat("export.format ", spec.format(), " will be refused: ", text, ": ",
                 spec.format() == "auto" ? "no stock architecture holds that" : spec.format() + " does not hold that",
                 "; change it",
                 would_fit ? " (with convert.router.score sigmoid, glm4_moe and solar_open hold selection biases)" : "",
                 ", or set export.format: native")};
}

}  // namespace moe
