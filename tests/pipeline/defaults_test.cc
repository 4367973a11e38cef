#include "pipeline/defaults.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <set>

#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::PipelineSpec sample() {
  return load_pipeline_or_throw(R"(apiVersion: moe/v1
kind: Pipeline
name: a
inputs: {dense: {path: models/dense}}
defaults: {gang: {ranks: 4, expert_parallel: 2, device: cuda}, seed: 9}
stages:
  - {name: convert, convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: 1}, calibration: {data: [{path: data/books.train.jsonl}]}}}
  - {name: stage1, seed: 3, gang: {expert_parallel: 4}, train: {input: convert.model, steps: 200, data: [{path: a/b.c.jsonl, weight: 2}]}}
  - {name: short, train: {input: convert.model, steps: 3, data: [{path: x.jsonl, domain: mine}], validate_every: 0, checkpoint_every: 0}}
  - {name: evaluate, evaluate: {input: stage1.model, data: [{path: v.jsonl}]}}
  - gate: {name: good, metric: evaluate.loss, op: "<=", value: 3}
  - {name: export, export: {input: stage1.model}}
)",
                                "a.yaml", {}, {});
}

v1::Stage filled(v1::Stage stage) {
  kind_of(stage)->fill(stage);
  return stage;
}

TEST(DefaultsTest, StagesInheritGangAndSeed) {
  const v1::PipelineSpec spec = effective_spec(sample());
  EXPECT_EQ(spec.stages(0).seed(), 9u);
  EXPECT_EQ(spec.stages(1).seed(), 3u);
  EXPECT_EQ(spec.stages(0).gang().expert_parallel(), 2);
  EXPECT_EQ(spec.stages(1).gang().expert_parallel(), 4);
  EXPECT_EQ(spec.stages(1).gang().ranks(), 4);
  EXPECT_EQ(spec.stages(1).gang().device(), "cuda");
  EXPECT_EQ(spec.stages(1).gang().dtype(), "float32");
  EXPECT_FALSE(spec.stages(4).has_gang());
  EXPECT_EQ(spec.stages(4).gate().on_fail(), "HOLD");
}

TEST(DefaultsTest, AttentionExperts) {
  v1::Stage stage;
  v1::AttentionExpertsSpec& attention = *stage.mutable_convert()->mutable_attention();
  attention.set_experts(8);
  attention.set_top_k(6);
  const v1::ConvertSpec alone = filled(stage).convert();
  EXPECT_FALSE(alone.has_ffn());
  EXPECT_FALSE(alone.has_router()) << "of feed-forward experts";
  EXPECT_FALSE(alone.has_scale()) << "of feed-forward experts";
  EXPECT_EQ(alone.attention().grouping(), "contiguous");
  EXPECT_EQ(alone.attention().kv_mode(), "routed");
  EXPECT_TRUE(alone.attention().has_always_on());
  EXPECT_EQ(alone.attention().always_on(), 0);
  EXPECT_EQ(alone.attention().router().init(), "random_selection");
  EXPECT_EQ(alone.attention().router().scaling(), "calibrated");
  EXPECT_EQ(alone.attention().router().topk_norm(), "renorm");
  EXPECT_EQ(alone.attention().router().score(), "softmax");
  EXPECT_EQ(alone.attention().scale().mode(), "least_squares");
  EXPECT_EQ(alone.calibration().tokens(), 4096);

  attention.set_top_k(1);
  stage.mutable_convert()->set_preset("published");
  stage.mutable_convert()->mutable_ffn()->set_top_k(2);
  const v1::ConvertSpec published = filled(stage).convert();
  EXPECT_EQ(published.attention().router().init(), "kaiming");
  EXPECT_EQ(published.attention().router().topk_norm(), "straight_through");
  EXPECT_EQ(published.attention().scale().mode(), "fixed");
  EXPECT_EQ(published.attention().scale().value(), 4);
  EXPECT_EQ(published.router().init(), "random_selection");
  EXPECT_EQ(published.router().topk_norm(), "renorm");
}

// The numbers of the comments in job.proto, restated here by hand.
TEST(DefaultsTest, NumbersOfTheSchema) {
  const v1::PipelineSpec spec = effective_spec(sample());
  const v1::ConvertSpec& convert = spec.stages(0).convert();
  EXPECT_EQ(convert.preset(), "ours");
  EXPECT_EQ(convert.dtype(), "source");
  EXPECT_EQ(convert.router().init(), "random_selection");
  EXPECT_EQ(convert.router().scaling(), "calibrated");
  EXPECT_EQ(convert.router().topk_norm(), "straight_through");
  EXPECT_EQ(convert.router().score(), "softmax");
  EXPECT_EQ(convert.scale().mode(), "least_squares");
  EXPECT_EQ(convert.scale().alignment(), "none");
  EXPECT_FALSE(convert.has_reconstruction());
  EXPECT_FALSE(convert.scale().has_value());
  EXPECT_EQ(convert.calibration().tokens(), 4096);
  EXPECT_EQ(convert.calibration().data(0).domain(), "books");
  const v1::TrainSpec& train = spec.stages(1).train();
  EXPECT_EQ(train.micro_batch_rows(), 8);
  EXPECT_EQ(train.micro_steps(), 1);
  EXPECT_EQ(train.learning_rate(), 2e-4);
  EXPECT_EQ(train.learning_rate_floor(), 0.1);
  EXPECT_EQ(train.warmup_steps(), 10);
  EXPECT_EQ(train.beta1(), 0.9);
  EXPECT_EQ(train.beta2(), 0.95);
  EXPECT_EQ(train.epsilon(), 1e-8);
  EXPECT_EQ(train.weight_decay(), 0.1);
  EXPECT_EQ(train.clip_norm(), 1);
  EXPECT_EQ(train.balance_loss(), 0.01);
  EXPECT_EQ(train.attention_balance_loss(), 0.01) << "as balance_loss";
  EXPECT_EQ(train.balance(), "auxiliary");
  EXPECT_EQ(train.balance_scope(), "global_batch");
  EXPECT_EQ(train.load_estimator(), "exact");
  EXPECT_EQ(train.selection_bias_rate(), 0.001);
  EXPECT_EQ(train.z_loss(), 0);
  EXPECT_EQ(train.frozen_router_steps(), 0);
  EXPECT_EQ(train.routing(), "router");
  EXPECT_EQ(train.balance_layers(), "per_layer");
  EXPECT_EQ(train.capacity_factor(), 0);
  EXPECT_EQ(train.dropped_tokens(), "zero");
  EXPECT_FALSE(train.from_scratch());
  EXPECT_EQ(train.validate_every(), 20);
  EXPECT_EQ(train.validation_tokens(), 16384);
  EXPECT_EQ(train.checkpoint_every(), 40);
  EXPECT_EQ(train.keep_checkpoints(), 2);
  EXPECT_TRUE(train.append_eos());
  EXPECT_EQ(train.long_documents(), "drop");
  EXPECT_EQ(train.supervise(), "all");
  EXPECT_FALSE(train.drop_system());
  EXPECT_EQ(train.data(0).domain(), "b");
  EXPECT_EQ(train.data(0).weight(), 2);
  EXPECT_THAT(spec.stages(3).evaluate().tasks(), ElementsAre("perplexity"));
  EXPECT_EQ(spec.stages(3).evaluate().routing(), "router");
  EXPECT_FALSE(spec.stages(3).evaluate().has_top_k()) << "the model's";
  const v1::ExportSpec& written = spec.stages(5).export_();
  EXPECT_EQ(written.format(), "auto");
  EXPECT_EQ(written.dtype(), "bfloat16");
  EXPECT_EQ(written.max_shard_bytes(), 5'000'000'000);
  EXPECT_EQ(written.pad_experts_to(), 0);
  EXPECT_FALSE(written.allow_padding());
  EXPECT_FALSE(written.keep_tied());
}

TEST(DefaultsTest, WhatIsChosenAtRandomNeedsNoBalance) {
  v1::Stage stage;
  stage.mutable_train()->set_routing("random");
  EXPECT_EQ(filled(stage).train().balance(), "none");
}

TEST(DefaultsTest, ZeroIsAValueAndShortRunsStillValidate) {
  const v1::PipelineSpec spec = effective_spec(sample());
  EXPECT_EQ(spec.stages(2).train().validate_every(), 0);
  EXPECT_EQ(spec.stages(2).train().checkpoint_every(), 0);
  EXPECT_EQ(spec.stages(2).train().data(0).domain(), "mine");
  v1::Stage three;
  three.mutable_train()->set_steps(3);
  EXPECT_EQ(filled(three).train().validate_every(), 1);
  EXPECT_EQ(filled(three).train().checkpoint_every(), 1);
  EXPECT_EQ(filled(three).train().warmup_steps(), 0);
}

TEST(DefaultsTest, ThePublishedPresetFillsWhatIsAbsentOnly) {
  v1::Stage stage;
  v1::ConvertSpec& convert = *stage.mutable_convert();
  convert.set_preset("published");
  convert.mutable_ffn()->set_top_k(2);
  EXPECT_EQ(filled(stage).convert().router().scaling(), "raw");
  EXPECT_EQ(filled(stage).convert().scale().mode(), "n_over_k");
  EXPECT_EQ(filled(stage).convert().router().topk_norm(), "renorm");
  convert.mutable_scale()->set_mode("energy");
  EXPECT_EQ(filled(stage).convert().scale().mode(), "energy");
}

/// What a paper chose, as docs/methods.md has it.
struct PublishedRow {
  const char* method;
  const char* init;
  const char* gate;
  const char* noise;
  const char* scaling;
  const char* topk_norm;
  double fixed;  ///< 0: n_over_k
};

constexpr PublishedRow kPublished[] = {
    {"independent_random", "normal", "mlp", "learned", "calibrated", "renorm", 0},
    {"independent_clustering", "normal", "mlp", "learned", "calibrated", "renorm", 0},
    {"independent_gradient", "normal", "mlp", "learned", "calibrated", "renorm", 0},
    {"sharing_inner", "normal", "mlp", "learned", "calibrated", "renorm", 0},
    {"coactivation", "normal", "mlp", "learned", "calibrated", "renorm", 0},
    {"sharing_inter", "normal", "mlp", "learned", "calibrated", "renorm", 4},
    {"sequential", "kaiming", "linear", "none", "raw", "renorm", 0},
    {"importance", "hidden_clustering", "linear", "none", "raw", "renorm", 0},
    {"residual", "hidden_clustering", "linear", "none", "raw", "renorm", 1},
    {"weave", "random_selection", "linear", "none", "raw", "straight_through", 1},
    {"analytic", "random_selection", "product", "none", "raw", "one_plus", 1},
    {"upcycle", "normal", "linear", "none", "raw", "renorm", 1},
    {"merge", "random_selection", "linear", "none", "raw", "renorm", 1}};

TEST(DefaultsTest, ThePublishedPresetOfEachMethod) {
  for (const PublishedRow& row : kPublished) {
    SCOPED_TRACE(row.method);
    v1::Stage stage;
    v1::ConvertSpec& convert = *stage.mutable_convert();
    convert.mutable_ffn()->set_method(row.method);
    convert.mutable_ffn()->set_top_k(2);
    const v1::ConvertSpec ours = filled(stage).convert();
    EXPECT_EQ(ours.router().init(), "random_selection");
    EXPECT_EQ(ours.router().gate(), "linear");
    EXPECT_EQ(ours.router().noise(), "none");
    EXPECT_EQ(ours.router().scaling(), "calibrated");
    EXPECT_EQ(ours.router().topk_norm(), "renorm");
    EXPECT_EQ(ours.scale().mode(), "least_squares");
    EXPECT_TRUE(ours.ffn().options().empty());

    convert.set_preset("published");
    const v1::ConvertSpec published = filled(stage).convert();
    EXPECT_EQ(published.router().init(), row.init);
    EXPECT_EQ(published.router().gate(), row.gate);
    EXPECT_EQ(published.router().noise(), row.noise);
    EXPECT_EQ(published.router().scaling(), row.scaling);
    EXPECT_EQ(published.router().topk_norm(), row.topk_norm);
    EXPECT_EQ(published.scale().mode(), row.fixed == 0 ? "n_over_k" : "fixed");
    EXPECT_EQ(published.scale().value(), row.fixed);

    convert.mutable_router()->set_init("zero");
    convert.mutable_router()->set_gate("linear");
    convert.mutable_router()->set_topk_norm("unit");
    convert.mutable_scale()->set_mode("unbiased");
    const v1::ConvertSpec given = filled(stage).convert();
    EXPECT_EQ(given.router().init(), "zero") << "what is given stands";
    EXPECT_EQ(given.router().gate(), "linear");
    EXPECT_EQ(given.router().topk_norm(), "unit");
    EXPECT_EQ(given.scale().mode(), "unbiased");
    EXPECT_FALSE(given.scale().has_value());
  }
}

/// At which a gate of zeros lets shared experts count in full.
TEST(DefaultsTest, TheScaleOfAGateOfSharedExperts) {
  v1::Stage stage;
  v1::FfnExpertsSpec& ffn = *stage.mutable_convert()->mutable_ffn();
  ffn.set_shared_experts(3);
  EXPECT_EQ(filled(stage).convert().ffn().shared_gate(), "none");
  EXPECT_FALSE(filled(stage).convert().ffn().has_shared_gate_scale());
  ffn.set_shared_gate("softmax");
  EXPECT_EQ(filled(stage).convert().ffn().shared_gate_scale(), 3);
  ffn.set_shared_gate("sigmoid");
  EXPECT_EQ(filled(stage).convert().ffn().shared_gate_scale(), 2);
  ffn.set_shared_gate_scale(0.5);
  EXPECT_EQ(filled(stage).convert().ffn().shared_gate_scale(), 0.5);
}

TEST(DefaultsTest, ThePublishedPresetOfOptions) {
  v1::Stage stage;
  v1::ConvertSpec& convert = *stage.mutable_convert();
  convert.set_preset("published");
  v1::FfnExpertsSpec& ffn = *convert.mutable_ffn();
  ffn.set_method("weave");
  ffn.set_top_k(2);
  EXPECT_EQ(filled(stage).convert().ffn().options().at("shared"), "adaptive");
  ffn.set_shared_experts(1);
  EXPECT_EQ(filled(stage).convert().ffn().options().at("shared"), "fixed") << "one width of all layers is asked for";
  ffn.set_shared_experts(0);
  (*ffn.mutable_options())["shared"] = "fixed";
  EXPECT_EQ(filled(stage).convert().ffn().options().at("shared"), "fixed");

  ffn.set_method("upcycle");
  ffn.clear_options();
  EXPECT_EQ(filled(stage).convert().router().topk_norm(), "renorm");
  (*ffn.mutable_options())["variant"] = "granular";
  EXPECT_EQ(filled(stage).convert().router().topk_norm(), "raw") << "softmax before the choice";
}

// What depends on the model stays absent, and so do sections whose absence means something; every other optional scalar
// of an effective job is set. A field that is added to the schema and forgotten in the row of its kind fails here, and
// so does a section.
TEST(DefaultsTest, NoOptionalFieldIsForgotten) {
  const std::set<std::string> by_the_model{
      "sequence_length",           "template", "expert_width", "shared_gate_scale", "moe.v1.ScaleSpec.value",
      "moe.v1.EvaluateSpec.top_k", "baseline"};
  const std::set<std::string> by_choice{"moe.v1.ConvertSpec.attention", "moe.v1.ConvertSpec.reconstruction"};
  int checked = 0;
  const std::function<void(const google::protobuf::Message&)> check = [&](const google::protobuf::Message& message) {
    const auto* type = message.GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i) {
      const auto* field = type->field(i);
      if (!field->has_presence() || by_the_model.contains(field->name()) || by_the_model.contains(field->full_name()))
        continue;
      if (by_choice.contains(field->full_name()) && !message.GetReflection()->HasField(message, field)) continue;
      EXPECT_TRUE(message.GetReflection()->HasField(message, field)) << field->full_name();
      if (field->message_type() != nullptr) check(message.GetReflection()->GetMessage(message, field));
      ++checked;
    }
  };
  const google::protobuf::OneofDescriptor& kinds = *v1::Stage::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    v1::PipelineSpec spec;
    v1::Stage& stage = *spec.add_stages();
    stage.GetReflection()->MutableMessage(&stage, kinds.field(i));
    const v1::Stage filled = effective_spec(spec).stages(0);
    check(filled.GetReflection()->GetMessage(filled, kinds.field(i)));
  }
  v1::Stage all_sections;
  all_sections.mutable_convert()->mutable_ffn();
  all_sections.mutable_convert()->mutable_attention();
  all_sections.mutable_convert()->mutable_reconstruction();
  check(filled(all_sections).convert());
  const v1::PipelineSpec spec = effective_spec(sample());
  check(spec.stages(0).convert().calibration().data(0));
  check(spec.stages(0).gang());
  EXPECT_GT(checked, 30);
}

TEST(DefaultsTest, FillingTwiceChangesNothing) {
  const v1::PipelineSpec once = effective_spec(sample());
  EXPECT_TRUE(MessageDifferencer::Equals(once, effective_spec(once)));
}

TEST(DefaultsTest, JsonOfAStageIsTheSameTextAndNamesFieldsAsTheFileDoes) {
  const v1::Stage stage = effective_spec(sample()).stages(1);
  const std::string json = to_json(stage);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(to_json(effective_spec(sample()).stages(1)), json);
  EXPECT_THAT(json, HasSubstr("\"learning_rate\": 0.0002"));
  EXPECT_THAT(json, HasSubstr("\"expert_parallel\": 4"));
}

TEST(DefaultsTest, DomainIsTheFileNameUpToItsFirstDot) {
  v1::DataSource source;
  for (const auto& [path, domain] :
       std::vector<std::pair<std::string, std::string>>{{"examples/data/general.valid.jsonl", "general"},
                                                        {"x", "x"},
                                                        {"a.b/c", "c"},
                                                        {"/d/.hidden.jsonl", ".hidden"}}) {
    source.set_path(path);
    EXPECT_EQ(domain_of(source), domain);
  }
}

}  // namespace
}  // namespace moe
