#include "report/measured_models.h"

#include <gtest/gtest.h>

#include "report/run_summary_fixture.h"

namespace moe {
namespace {

using nlohmann::json;

json evaluation(const char* stage, const char* domain, double loss, int top_k, const std::string& measured_with) {
  json model = testing::model_facts(8);
  model["top_k"] = top_k;
  if (!measured_with.empty()) model["measured_with"] = measured_with;
  const json perplexity = {{"domains", {{domain, {{"loss", loss}, {"perplexity", 1}}}}}};
  return {{"stage", stage}, {"details", {{"model", model}, {"tasks", {{"perplexity", perplexity}}}}}};
}

/// What a model comes to otherwise than as it is stands by itself, on whichever texts, and before the model's own.
TEST(MeasuredModelsTest, AnotherTopKIsAnotherLine) {
  v1::PipelineSpec spec;
  spec.add_stages()->set_name("train");
  spec.mutable_stages(0)->mutable_train()->set_input("./m");
  for (const char* name : {"plain", "four", "random", "more"}) {
    spec.add_stages()->set_name(name);
    spec.mutable_stages(spec.stages_size() - 1)->mutable_evaluate()->set_input("train.model");
  }
  const std::vector<ModelReport> models = model_reports(
      spec, {evaluation("plain", "maths", 2, 2, ""), evaluation("four", "general", 3, 4, "top-4"),
             evaluation("random", "maths", 4, 2, "random experts"), evaluation("more", "general", 5, 2, "")});
  ASSERT_EQ(models.size(), 3U);
  EXPECT_EQ(models[0].label, "after train (top-4)");
  EXPECT_EQ(models[0].top_k, 4);
  EXPECT_EQ(models[0].role, ModelRole::kOther);
  EXPECT_EQ(models[0].domains.at("general").loss, 3);
  EXPECT_EQ(models[1].label, "after train (random experts)");
  EXPECT_EQ(models[2].label, "after train");
  EXPECT_EQ(models[2].top_k, 2);
  EXPECT_EQ(models[2].role, ModelRole::kTrained);
  EXPECT_EQ(models[2].domains.at("maths").loss, 2);
  EXPECT_EQ(models[2].domains.at("general").loss, 5);
}

}  // namespace
}  // namespace moe
