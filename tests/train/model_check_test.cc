// What is asked of models that are there before a pipeline's first stage, and cannot be: told before it runs.

#include "worker/model_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pipeline/defaults.h"
#include "pipeline/spec.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "worker/known_names.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ModelCheckTest : public ::testing::Test {
 protected:
  ModelCheckTest() {
    testing::write_tiny_model(folder_ / "llama", testing::tiny_config("llama"), 1, at::kFloat);
    testing::write_tiny_model(folder_ / "phi", testing::tiny_config("phi"), 1, at::kFloat);
    testing::write_tiny_model(folder_ / "moe", testing::tiny_moe_config(4, 2, 12), 1, at::kFloat);
    ModelConfig biased = testing::tiny_moe_config(4, 1, 12);
    biased.moe->has_selection_bias = true;
    testing::write_tiny_model(folder_ / "biased", biased, 1, at::kFloat);
    testing::write_tiny_model(folder_ / "attention", testing::with_attention_experts(testing::tiny_config(), 4, 2), 1,
                              at::kFloat);
  }

  /// Of a pipeline of these stages, which start at line 11.
  std::vector<std::string> problems(const std::string& stages) {
    std::string text = "apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs:\n";
    text += "  dense: {path: " + (folder_ / "llama").string() + "}\n";
    text += "  phi: {path: " + (folder_ / "phi").string() + "}\n";
    for (const char* experts : {"moe", "biased", "attention"})
      text += std::string("  ") + experts + ": {path: " + (folder_ / experts).string() + "}\n";
    text += "stages:\n" + stages;
    return of(text);
  }

  std::vector<std::string> of(const std::string& text) {
    const LoadedPipeline loaded = load_pipeline(text, "a.yaml", {}, known_names());
    EXPECT_THAT(loaded.problems, IsEmpty()) << to_text(loaded.problems);
    std::vector<std::string> texts;
    for (const Problem& problem : model_problems(effective_spec(loaded.spec), loaded.sources))
      texts.push_back(problem.text());
    return texts;
  }

  testing::TempDir folder_;
};

constexpr char kNoText[] = "router: {init: kaiming}, scale: {mode: k}";

TEST_F(ModelCheckTest, EveryVariantIsHeldAgainstItsModelWithLineFieldAndValue) {
  EXPECT_THAT(problems(std::string(R"(  - for_each:
      variants:
        - {name: fits, convert: {ffn: {experts: 4, top_k: 2}}}
        - {name: five, convert: {ffn: {experts: 5, top_k: 2}}}
        - name: deep
          convert:
            ffn:
              experts: 4
              top_k: 2
              layers: ["0", "7"]
      stages:
        - {name: convert, convert: {input: dense, ffn: {method: independent_random}, )") +
                       kNoText + "}}\n"),
              ElementsAre(AllOf(HasSubstr("a.yaml:14: stages.five-convert.convert.ffn.experts: "),
                                HasSubstr("ffn.experts 5 does not divide"), HasSubstr("1, 2, 3, 4, 6, 8"),
                                Not(HasSubstr("convert: "))),
                          AllOf(HasSubstr("a.yaml:20: stages.deep-convert.convert.ffn.layers: "),
                                HasSubstr("'7' names layer 7, and the model has layers 0 to 1"))));
}

TEST_F(ModelCheckTest, AllProblemsOfOneStageAreTold) {
  EXPECT_THAT(problems(R"(  - name: convert
    convert:
      input: phi
      ffn: {method: weave, experts: 4, top_k: 2}
      attention:
        experts: 3
        top_k: 1
        router: {init: kaiming}
        scale: {mode: k}
      calibration: {data: [{path: text.jsonl}]}
)"),
              ElementsAre(AllOf(HasSubstr("a.yaml:14: stages.convert.convert.ffn.method: "),
                                HasSubstr("ffn.method weave does not apply to"), HasSubstr("phi has no gate")),
                          AllOf(HasSubstr("a.yaml:16: stages.convert.convert.attention.experts: "),
                                HasSubstr("attention.experts 3"))));
}

TEST_F(ModelCheckTest, MergedModelsHaveOneShape) {
  EXPECT_THAT(problems(R"(  - name: merge
    convert:
      input: dense
      ffn:
        method: merge
        others: [phi]
        top_k: 1
        options: {router: random}
      scale: {mode: fixed, value: 1}
)"),
              ElementsAre(AllOf(HasSubstr("a.yaml:16: stages.merge.convert.ffn.others: "),
                                HasSubstr((folder_ / "phi").string()), HasSubstr("give models of one shape"))));
}

TEST_F(ModelCheckTest, AMixtureIsNoInputOfAConversion) {
  EXPECT_THAT(of("apiVersion: moe/v1\nkind: Job\nname: a\nconvert:\n  input: " + (folder_ / "moe").string() +
                 "\n  ffn: {method: independent_random, experts: 5, top_k: 2}\n  router: {init: kaiming}\n  scale: "
                 "{mode: k}\n"),
              ElementsAre(AllOf(HasSubstr("a.yaml:5: convert.input: "), HasSubstr("is a mixture of experts already"))));
}

TEST_F(ModelCheckTest, AnExportToAFormatThatDoesNotHoldTheModel) {
  EXPECT_THAT(problems("  - {name: out, export: {input: dense, format: mixtral}}\n"),
              ElementsAre(AllOf(HasSubstr("a.yaml:11: stages.out.export.format: mixtral does not hold"),
                                HasSubstr("it is a dense model"))));
}

// What a model is made of allows the same rows.
TEST_F(ModelCheckTest, RowsThatAreLongerThanTheFirstModelAllows) {
  EXPECT_THAT(problems(std::string("  - {name: c, convert: {input: dense, ffn: {method: sequential, experts: 4, "
                                   "top_k: 2}, ") +
                       kNoText + R"(}}
  - {name: t, train: {input: c.model, steps: 1, sequence_length: 64, data: [{path: a.jsonl}]}}
  - {name: u, train: {input: t.model, steps: 1, sequence_length: 65, data: [{path: a.jsonl}]}}
  - {name: e, evaluate: {input: u.model, baseline: dense, sequence_length: 100, data: [{path: a.jsonl}]}}
)"),
              ElementsAre(AllOf(HasSubstr("a.yaml:13: stages.u.train.sequence_length: sequence_length 65 is more than "
                                          "the model's max_position_embeddings 64"),
                                HasSubstr("/llama)")),
                          HasSubstr("a.yaml:14: stages.e.evaluate.sequence_length: sequence_length 100 is more")));
}

// As the evaluation refuses it when it starts; the baseline is measured as it is.
TEST_F(ModelCheckTest, TopKOfExpertsThatTheModelHasNot) {
  EXPECT_THAT(problems(R"(  - {name: a, evaluate: {input: moe, baseline: dense, top_k: 4, data: [{path: a.jsonl}]}}
  - {name: b, evaluate: {input: moe, top_k: 5, data: [{path: a.jsonl}]}}
  - {name: c, evaluate: {input: dense, top_k: 1, data: [{path: a.jsonl}]}}
  - {name: d, evaluate: {input: attention, top_k: 1, data: [{path: a.jsonl}]}}
  - {name: e, evaluate: {input: moe, data: [{path: a.jsonl}]}}
)"),
              ElementsAre(AllOf(HasSubstr("a.yaml:12: stages.b.evaluate.top_k: "), HasSubstr("/moe: top_k 5 of the "),
                                HasSubstr("model's 4 experts; use 1 to 4")),
                          AllOf(HasSubstr("a.yaml:13: stages.c.evaluate.top_k: "), HasSubstr("/llama: top_k 1 is of")),
                          AllOf(HasSubstr("a.yaml:14: stages.d.evaluate.top_k: "), HasSubstr("are dense"))));
}

TEST_F(ModelCheckTest, RoutersThatCannotBeTrainedSo) {
  EXPECT_THAT(
      problems(
          R"(  - {name: a, train: {input: dense, steps: 1, capacity_factor: 1.5, routing: random, data: [{path: a}]}}
  - {name: b, train: {input: attention, steps: 1, capacity_factor: 1.5, routing: random, data: [{path: a}]}}
  - {name: c, train: {input: moe, steps: 1, capacity_factor: 1.5, data: [{path: a}]}}
  - {name: d, train: {input: biased, steps: 1, capacity_factor: 1.5, balance: importance_load, data: [{path: a}]}}
  - {name: e, train: {input: moe, steps: 1, balance: importance_load, data: [{path: a}]}}
)"),
      ElementsAre(
          AllOf(HasSubstr("a.yaml:11: stages.a.train.routing: routing 'random' chooses experts"),
                HasSubstr("it is dense; remove it ("), HasSubstr("/llama)")),
          HasSubstr("a.yaml:11: stages.a.train.capacity_factor: capacity_factor 1.5 is of feed-forward experts"),
          HasSubstr("a.yaml:12: stages.b.train.capacity_factor: capacity_factor 1.5 is of feed-forward experts"),
          AllOf(HasSubstr("a.yaml:13: stages.c.train.capacity_factor: capacity_factor 1.5 is of models with "
                          "top_k 1, and this one has top_k 2"),
                HasSubstr("/moe)")),
          AllOf(HasSubstr("a.yaml:14: stages.d.train.balance: balance importance_load measures the load"),
                HasSubstr("/biased)"))));
}

// A training keeps a model's experts, a conversion makes others, and an export may write others.
TEST_F(ModelCheckTest, ExpertsAreThoseOfTheModelBeforeTrainings) {
  EXPECT_THAT(problems(std::string("  - {name: t, train: {input: moe, steps: 1, data: [{path: a.jsonl}]}}\n"
                                   "  - {name: u, train: {input: t.model, steps: 1, data: [{path: a.jsonl}]}}\n"
                                   "  - {name: e, evaluate: {input: u.model, top_k: 5, data: [{path: a.jsonl}]}}\n"
                                   "  - {name: c, convert: {input: dense, ffn: {method: sequential, experts: 4, top_k: "
                                   "1}, ") +
                       kNoText + R"(}}
  - {name: v, train: {input: c.model, steps: 1, capacity_factor: 1.5, data: [{path: a.jsonl}]}}
  - {name: f, evaluate: {input: v.model, top_k: 4, data: [{path: a.jsonl}]}}
  - {name: x, export: {input: moe, format: native}}
  - {name: g, evaluate: {input: x.model, top_k: 5, data: [{path: a.jsonl}]}}
)"),
              ElementsAre(HasSubstr("a.yaml:13: stages.e.evaluate.top_k: ")));
}

// What an earlier stage makes is not there; what cannot be opened is told by whoever reads it.
TEST_F(ModelCheckTest, WhatIsNotThereIsNotChecked) {
  const std::string bad = std::string("ffn: {method: independent_random, experts: 5, top_k: 2}, ") + kNoText;
  EXPECT_THAT(problems("  - {name: t, train: {input: dense, steps: 1, data: [{path: a.jsonl}]}}\n"
                       "  - {name: c, convert: {input: t.model, " +
                       bad +
                       "}}\n"
                       "  - {name: d, convert: {input: /no/such/folder, " +
                       bad + "}}\n"),
              IsEmpty());
}

}  // namespace
}  // namespace moe
