// Fields of a training that are wrong, missing or without effect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/validate.h"
#include "pipeline/validated_stages.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::problems_of;
using testing::train;

TEST(ValidateTest, FieldsOfTrain) {
  EXPECT_THAT(problems_of(train("steps: 0")),
              ElementsAre("a.yaml:7: stages.t.train.data: missing; list at least one JSONL file: [{path: FILE.jsonl}]",
                          "a.yaml:7: stages.t.train.steps: must be at least 1 (0); it has no default"));
  EXPECT_THAT(
      problems_of(train(
          "steps: 10, data: [{weight: -1, max_documents: -2, special_tokens: keep, domain: ''}], sequence_length: 1, "
          "micro_batch_rows: 0, "
          "micro_steps: 0, learning_rate: 0, learning_rate_floor: 2, warmup_steps: 11, beta1: 1, beta2: -0.1, epsilon: "
          "0, "
          "weight_decay: -1, clip_norm: -1, balance_loss: -1, attention_balance_loss: -1, balance: biased, "
          "balance_scope: token, "
          "selection_bias_rate: 0, z_loss: -1, "
          "frozen_router_steps: 11, validate_every: -1, validation_tokens: 0, "
          "checkpoint_every: -1, keep_checkpoints: 0, long_documents: cut")),
      ElementsAre("a.yaml:7: stages.t.train.data.0.path: missing; name a JSONL file",
                  "a.yaml:7: stages.t.train.data.0.weight: must be greater than 0 (-1)",
                  "a.yaml:7: stages.t.train.data.0.max_documents: must be at least 0 (-2)",
                  "a.yaml:7: stages.t.train.data.0.special_tokens: unknown value (keep); known: text, parse",
                  "a.yaml:7: stages.t.train.data.0.domain: is empty; write a name or remove it",
                  "a.yaml:7: stages.t.train.sequence_length: must be at least 2 (1)",
                  "a.yaml:7: stages.t.train.micro_batch_rows: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.micro_steps: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.learning_rate: must be greater than 0 (0)",
                  "a.yaml:7: stages.t.train.learning_rate_floor: must lie in 0 .. 1 (2)",
                  "a.yaml:7: stages.t.train.warmup_steps: warmup_steps 11 is greater than steps 10",
                  "a.yaml:7: stages.t.train.beta1: must be at least 0 and less than 1 (1)",
                  "a.yaml:7: stages.t.train.beta2: must be at least 0 and less than 1 (-0.1)",
                  "a.yaml:7: stages.t.train.epsilon: must be greater than 0 (0)",
                  "a.yaml:7: stages.t.train.weight_decay: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.clip_norm: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.balance_loss: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.attention_balance_loss: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.balance: unknown value (biased); known: auxiliary, importance_load, "
                  "selection_bias, quantile, constant, none",
                  "a.yaml:7: stages.t.train.balance_scope: unknown value (token); known: micro_batch, sequence, "
                  "global_batch",
                  "a.yaml:7: stages.t.train.selection_bias_rate: must be greater than 0 (0)",
                  "a.yaml:7: stages.t.train.z_loss: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.frozen_router_steps: frozen_router_steps 11 is greater than steps 10",
                  "a.yaml:7: stages.t.train.validate_every: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.validation_tokens: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.checkpoint_every: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.keep_checkpoints: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.long_documents: unknown value (cut); known: drop, truncate, split"));
}

TEST(ValidateTest, LoadEstimatorsAreOfTheImportanceLoad) {
  const std::string data = "steps: 10, data: [{path: a.jsonl}], ", at = "a.yaml:7: stages.t.train.";
  EXPECT_THAT(problems_of(train(data + "balance: importance_load, balance_loss: 0.1, load_estimator: reference_v1")),
              IsEmpty());
  EXPECT_THAT(problems_of(train(data + "balance: constant, balance_loss: 0.1")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "balance: importance_load, load_estimator: v1, balance_scope: sequence")),
              ElementsAre(at + "load_estimator: unknown value (v1); known: exact, reference_v1",
                          at + "balance_scope: has no effect (sequence) with balance 'importance_load'; set balance: "
                               "auxiliary or remove it"));
  EXPECT_THAT(problems_of(train(data + "load_estimator: reference_v1")),
              ElementsAre(at + "load_estimator: has no effect (reference_v1) with balance 'auxiliary'; set balance: "
                               "importance_load or remove it"));
}

TEST(ValidateTest, WhatAnotherBalanceWouldIgnoreIsNamed) {
  const std::string data = "steps: 10, data: [{path: a.jsonl}], ";
  EXPECT_THAT(problems_of(train(data + "balance: quantile, balance_loss: 0.1, balance_scope: sequence, "
                                       "selection_bias_rate: 0.01")),
              ElementsAre("a.yaml:7: stages.t.train.balance_loss: has no effect (0.1) with balance 'quantile'; set "
                          "balance: auxiliary or remove it",
                          "a.yaml:7: stages.t.train.balance_scope: has no effect (sequence) with balance 'quantile'; "
                          "set balance: auxiliary or remove it",
                          "a.yaml:7: stages.t.train.selection_bias_rate: has no effect (0.01) with balance 'quantile'; "
                          "set balance: selection_bias or remove it"));
  EXPECT_THAT(problems_of(train(data + "selection_bias_rate: 0.01")), ElementsAre(HasSubstr("balance 'auxiliary'")));
  // The defaults stand in every effective spec, which is checked again.
  for (const char* const fine :
       {"balance: none, balance_loss: 0", "balance: selection_bias, selection_bias_rate: 0.01",
        "balance: quantile, balance_loss: 0.01, balance_scope: micro_batch",
        "balance: quantile, balance_scope: global_batch",
        "balance: auxiliary, balance_scope: global_batch, z_loss: 0.001, frozen_router_steps: 10"})
    EXPECT_THAT(problems_of(train(data + fine)), IsEmpty()) << fine;
}

TEST(ValidateTest, WhoChoosesExperts) {
  const std::string data = "data: [{path: a.jsonl}], ";
  const auto evaluate = [&](const std::string& fields) {
    return problems_of("  - {name: e, evaluate: {input: ./m, " + data + fields + "}}\n");
  };
  EXPECT_THAT(evaluate("top_k: 1, routing: random"), IsEmpty());
  EXPECT_THAT(evaluate("routing: first"), IsEmpty());
  EXPECT_THAT(evaluate("top_k: 0, routing: last"),
              ElementsAre("a.yaml:7: stages.e.evaluate.top_k: must be at least 1 (0)",
                          "a.yaml:7: stages.e.evaluate.routing: unknown value (last); known: router, random, first"));
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: random")), IsEmpty());
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: random, balance: none, z_loss: 0.1")), IsEmpty());
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: first")),
              ElementsAre("a.yaml:7: stages.t.train.routing: unknown value (first); known: router, random"));
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: random, balance: auxiliary")),
              ElementsAre("a.yaml:7: stages.t.train.balance: has no effect (auxiliary) with routing 'random', which is "
                          "even as it is; set balance: none or remove it"));
}

TEST(ValidateTest, CapacityAndLayersOfABalance) {
  const std::string data = "steps: 10, data: [{path: a.jsonl}], ", at = "a.yaml:7: stages.t.train.";
  EXPECT_THAT(problems_of(train(data + "capacity_factor: 1.25, dropped_tokens: input")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "capacity_factor: 0, dropped_tokens: zero")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "balance_layers: concatenated, balance_scope: sequence")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "capacity_factor: -1, dropped_tokens: skip, balance_layers: both")),
              ElementsAre(at + "balance_layers: unknown value (both); known: per_layer, concatenated",
                          at + "capacity_factor: must be at least 0 (-1)",
                          at + "dropped_tokens: unknown value (skip); known: zero, input"));
  EXPECT_THAT(problems_of(train(data + "dropped_tokens: input")),
              ElementsAre(at + "dropped_tokens: has no effect (input) without capacity_factor: experts take every "
                               "token; set capacity_factor, for example 1.25, or remove it"));
  EXPECT_THAT(problems_of(train(data + "balance: quantile, balance_layers: concatenated")),
              ElementsAre(at + "balance_layers: has no effect (concatenated) with balance 'quantile'; set balance: "
                               "auxiliary or remove it"));
}

}  // namespace
}  // namespace moe
