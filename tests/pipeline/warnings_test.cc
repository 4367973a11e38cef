#include "pipeline/warnings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/defaults.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> warnings(const std::string& stage, const std::string& defaults = "{}") {
  return warnings_of(effective_spec(load_pipeline_or_throw(
      "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\ndefaults: " + defaults +
          "\nstages:\n  - {name: s, " + stage + "}\n",
      "a.yaml", {}, {})));
}

std::string conversion(const std::string& experts, const std::string& top_k, const std::string& topk_norm = "") {
  return "convert: {input: dense, ffn: {method: sequential, experts: " + experts + ", top_k: " + top_k +
         "}, router: {init: kaiming" + topk_norm + "}, scale: {mode: k}}";
}

TEST(WarningsTest, ARouterWithoutGradientIsToldOnce) {
  EXPECT_THAT(warnings(conversion("8", "1", ", topk_norm: renorm")),
              ElementsAre(AllOf(HasSubstr("stage s: router.topk_norm renorm with ffn.top_k 1"),
                                HasSubstr("no gradient"), HasSubstr("straight_through"))));
  EXPECT_THAT(warnings(conversion("8", "2", ", topk_norm: unit")),
              ElementsAre(AllOf(HasSubstr("stage s: router.topk_norm unit"), HasSubstr("no gradient"),
                                HasSubstr("straight_through"))));
  for (const std::string& fine :
       {conversion("8", "1"), conversion("8", "2", ", topk_norm: one_plus"), conversion("2", "2", ", topk_norm: unit"),
        conversion("8", "1", ", topk_norm: raw"), conversion("8", "1", ", topk_norm: straight_through"),
        conversion("8", "2", ", topk_norm: renorm"), conversion("1", "1", ", topk_norm: renorm")}) {
    EXPECT_THAT(warnings(fine), IsEmpty()) << fine;
  }
}

TEST(WarningsTest, RanksWithoutRowsAreCounted) {
  const std::string train = "train: {input: dense, steps: 1, data: [{path: a.jsonl}]";
  EXPECT_THAT(
      warnings(train + "}", "{gang: {ranks: 12}}"),
      ElementsAre(AllOf(HasSubstr("stage s: gang.ranks: 4 of 12 ranks get no row"), HasSubstr("micro_batch_rows 8"))));
  EXPECT_THAT(warnings(train + ", micro_batch_rows: 3}, gang: {ranks: 4}"), ElementsAre(HasSubstr("1 of 4 ranks")));
  EXPECT_THAT(warnings(train + ", micro_batch_rows: 12}", "{gang: {ranks: 12}}"), IsEmpty());
  EXPECT_THAT(warnings(train + "}"), IsEmpty());
}

TEST(WarningsTest, WhatTheModelToComeWillBeRefusedFor) {
  const auto warned = [](const std::string& experts, const std::string& stage) {
    return warnings_of(effective_spec(
        load_pipeline_or_throw("apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\nstages:\n"
                               "  - {name: c, convert: {input: dense, " +
                                   experts +
                                   ", calibration: {data: [{path: c.jsonl}]}}}\n"
                                   "  - {name: t, train: {input: c.model, steps: 1, data: [{path: a.jsonl}]}}\n"
                                   "  - {name: s, " +
                                   stage + "}\n",
                               "a.yaml", {}, {})));
  };
  const std::string data = ", data: [{path: a.jsonl}]", ffn = "ffn: {method: sequential, experts: 8, top_k: ",
                    attention = "attention: {experts: 4, top_k: 2}",
                    train = "train: {input: t.model, steps: 1, capacity_factor: 1.25" + data + "}",
                    evaluate = "evaluate: {input: t.model, top_k: 9" + data + "}";
  EXPECT_THAT(warned(ffn + "2}", train),
              ElementsAre(AllOf(HasSubstr("stage s: capacity_factor 1.25"), HasSubstr("stage c makes top_k 2"),
                                HasSubstr("set ffn.top_k: 1"))));
  EXPECT_THAT(warned(attention, train), ElementsAre(HasSubstr("stage c makes none")));
  EXPECT_THAT(warned(ffn + "1}", train), IsEmpty());
  EXPECT_THAT(warned(ffn + "2}", evaluate),
              ElementsAre(HasSubstr("stage s: top_k 9 is more than the 8 feed-forward experts that stage c makes")));
  EXPECT_THAT(warned(attention, evaluate), ElementsAre(HasSubstr("more than the 0 feed-forward experts")));
  EXPECT_THAT(warned(ffn + "2}", "evaluate: {input: t.model, top_k: 8" + data + "}"), IsEmpty());
}

TEST(WarningsTest, ALoadWithoutNoiseHasNoGradient) {
  const auto warned = [](const std::string& router) {
    return warnings_of(effective_spec(load_pipeline_or_throw(
        "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\nstages:\n"
        "  - {name: c, convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: 2}, router: {init: normal" +
            router +
            "}, scale: {mode: k}}}\n"
            "  - {name: t, train: {input: c.model, steps: 1, data: [{path: a}], balance: importance_load}}\n",
        "a.yaml", {}, {})));
  };
  EXPECT_THAT(warned(""), ElementsAre(AllOf(HasSubstr("stage t: balance importance_load counts tokens"),
                                            HasSubstr("stage c"), HasSubstr("convert.router.noise"))));
  EXPECT_THAT(warned(", noise: learned"), IsEmpty());
  const auto attention_warned = [&](const std::string& noise) {
    return warned(noise + "}, attention: {experts: 4, top_k: 2, router: {init: kaiming}, scale: {mode: k}");
  };
  EXPECT_THAT(attention_warned(", noise: learned"),
              ElementsAre(AllOf(HasSubstr("stage t: balance importance_load counts the tokens of attention's experts"),
                                HasSubstr("stage c"))));
}

/// What the stages of a pipeline warn of that converts with this router, balances like this and exports like this.
std::vector<std::string> export_warned(const std::string& router, const std::string& balance, const std::string& format,
                                       int top_k = 2, const std::string& scale = "{mode: k}") {
  return warnings_of(effective_spec(load_pipeline_or_throw(
      "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\nstages:\n"
      "  - {name: c, convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: " +
          std::to_string(top_k) + "}, router: {init: kaiming" + router + "}, scale: " + scale +
          "}}\n  - {name: t, train: {input: c.model, steps: 1, balance: " + balance +
          ", data: [{path: a.jsonl}]}}\n  - {name: u, train: {input: t.model, steps: 1, data: [{path: a.jsonl}]}}\n"
          "  - {name: x, export: {input: u.model, format: " +
          format + "}}\n",
      "a.yaml", {}, {})));
}

/// What no stock architecture holds is said when the pipeline is checked, not after its trainings.
TEST(WarningsTest, AnExportThatWillBeRefused) {
  for (const char* format : {"auto", "mixtral", "granitemoeshared", "qwen2_moe"}) {
    EXPECT_THAT(export_warned("", "quantile", format),
                ElementsAre(AllOf(HasSubstr(std::string("stage x: export.format ") + format + " will be refused"),
                                  HasSubstr("stage t gives routers selection biases (train.balance quantile"),
                                  HasSubstr("score sigmoid, glm4_moe and solar_open hold selection biases"))));
    EXPECT_THAT(export_warned(", topk_norm: one_plus", "none", format), ElementsAre(HasSubstr("topk_norm one_plus")));
    EXPECT_THAT(export_warned("", "none", format, 2,
                              "{mode: k, alignment: mean_variance}, calibration: {data: [{path: b.jsonl}]}"),
                ElementsAre(HasSubstr("output biases (convert.scale.alignment mean_variance)")));
    for (const std::string gate : {"mlp", "product"}) {
      EXPECT_THAT(export_warned(", gate: " + gate, "none", format),
                  ElementsAre(HasSubstr("not one linear layer (convert.router.gate " + gate + ")")));
    }
    EXPECT_THAT(export_warned("", "auxiliary", format), IsEmpty());
  }
  EXPECT_THAT(export_warned(", topk_norm: one_plus", "quantile", "auto"),
              ElementsAre(AllOf(HasSubstr("no stock architecture holds that"), HasSubstr("topk_norm one_plus"))));
  for (const char* format : {"native", "dense"}) EXPECT_THAT(export_warned("", "selection_bias", format), IsEmpty());
}

/// Sigmoid scores and selection biases go together: glm4_moe and solar_open have both, the others neither.
TEST(WarningsTest, ScoresAndTheFormatsThatHaveThem) {
  for (const char* balance : {"quantile", "selection_bias", "auxiliary"}) {
    for (const char* format : {"auto", "glm4_moe", "solar_open"}) {
      EXPECT_THAT(export_warned(", score: sigmoid", balance, format), IsEmpty()) << balance << " " << format;
      EXPECT_THAT(export_warned(", score: sigmoid, topk_norm: raw", balance, format), IsEmpty());
    }
    EXPECT_THAT(
        export_warned(", score: sigmoid", balance, "mixtral"),
        ElementsAre(AllOf(HasSubstr("stage c gives routers sigmoid scores"), HasSubstr("mixtral does not hold that"))));
    EXPECT_THAT(export_warned("", balance, "solar_open"),
                ElementsAre(HasSubstr("stage c gives routers softmax scores (convert.router.score)")));
  }
  // Without a bias the largest sigmoid is that of the largest logit, and its weight is 1.
  EXPECT_THAT(export_warned(", score: sigmoid", "auxiliary", "mixtral", 1), IsEmpty());
  EXPECT_THAT(export_warned(", score: sigmoid", "quantile", "mixtral", 1), ElementsAre(HasSubstr("sigmoid scores")));
}

/// One sigmoid for all shared experts is qwen2_moe's.
TEST(WarningsTest, GatesOfSharedExpertsAndTheFormatThatHasOne) {
  const auto warned = [](const std::string& gate, const std::string& format) {
    return warnings_of(effective_spec(load_pipeline_or_throw(
        "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\nstages:\n"
        "  - {name: c, convert: {input: dense, ffn: {method: residual, experts: 6, top_k: 2, shared_experts: 2, "
        "shared_gate: " +
            gate + "}, calibration: {data: [{path: a.jsonl}]}}}\n  - {name: x, export: {input: c.model, format: " +
            format + "}}\n",
        "a.yaml", {}, {})));
  };
  for (const char* format : {"auto", "qwen2_moe", "native", "dense"}) EXPECT_THAT(warned("sigmoid", format), IsEmpty());
  EXPECT_THAT(warned("sigmoid", "granitemoeshared"),
              ElementsAre(AllOf(HasSubstr("stage c gives shared experts a gate (convert.ffn.shared_gate sigmoid)"),
                                HasSubstr("granitemoeshared does not hold that"))));
  for (const char* format : {"auto", "qwen2_moe"})
    EXPECT_THAT(warned("softmax", format), ElementsAre(HasSubstr("convert.ffn.shared_gate softmax")));
}

TEST(WarningsTest, WeightsOfOneExportAsGraniteInFloat32) {
  const std::string granite = "granitemoeshared, dtype: float32";
  EXPECT_THAT(export_warned(", topk_norm: straight_through", "auxiliary", granite, 3), IsEmpty());
  EXPECT_THAT(export_warned(", topk_norm: straight_through", "auxiliary", "auto, dtype: float32", 3), IsEmpty());
  EXPECT_THAT(export_warned(", topk_norm: straight_through", "auxiliary", "auto, dtype: bfloat16", 2), IsEmpty());
  EXPECT_THAT(export_warned(", topk_norm: straight_through", "auxiliary", "auto, dtype: bfloat16", 3),
              ElementsAre(HasSubstr("takes export.dtype float32")));
  for (const char* format : {"mixtral", "qwen2_moe"}) {
    EXPECT_THAT(export_warned(", topk_norm: straight_through", "auxiliary", format),
                ElementsAre(HasSubstr("each of 2 experts the weight 1 (convert.router.topk_norm straight_through)")));
  }
  EXPECT_THAT(export_warned(", score: sigmoid, topk_norm: straight_through", "quantile", "auto"),
              ElementsAre(HasSubstr("each of 2 experts the weight 1")));
}

/// A balance gives biases to routers alone: a dense model has none, neither when it stays one nor before a conversion.
TEST(WarningsTest, TheBalanceOfADenseModelIsNoReasonAgainstAnExport) {
  const auto warned = [](const std::string& input, const std::string& between) {
    return warnings_of(effective_spec(load_pipeline_or_throw(
        "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\nstages:\n"
        "  - {name: t, train: {input: dense, steps: 1, balance: quantile, data: [{path: a.jsonl}]}}\n" +
            between + "  - {name: x, export: {input: " + input + ", format: auto}}\n",
        "a.yaml", {}, {})));
  };
  const std::string conversion =
      "  - {name: c, convert: {input: t.model, ffn: {method: sequential, experts: 8, top_k: 2}, router: {init: "
      "kaiming}, scale: {mode: k}}}\n";
  EXPECT_THAT(warned("t.model", ""), IsEmpty());
  EXPECT_THAT(warned("c.model", conversion), IsEmpty());
  EXPECT_THAT(warned("u.model", conversion + "  - {name: u, train: {input: c.model, steps: 1, balance: quantile, "
                                             "data: [{path: a.jsonl}]}}\n"),
              ElementsAre(HasSubstr("stage u gives routers selection biases")));
}

/// A default that followed the ranks would train another model on another cluster.
TEST(WarningsTest, TheDefaultOfRowsDoesNotDependOnTheRanks) {
  for (const char* ranks : {"1", "3", "64"}) {
    const v1::PipelineSpec spec =
        effective_spec(load_pipeline_or_throw(std::string("apiVersion: moe/v1\nkind: Job\nname: a\ngang: {ranks: ") +
                                                  ranks + "}\ntrain: {input: ./m, steps: 1, data: [{path: a.jsonl}]}\n",
                                              "a.yaml", {}, {}));
    EXPECT_EQ(spec.stages(0).train().micro_batch_rows(), 8) << ranks;
    EXPECT_EQ(spec.stages(0).train().micro_steps(), 1) << ranks;
  }
}

}  // namespace
}  // namespace moe
