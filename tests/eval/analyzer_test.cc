// Analyses of whole models: the same on every layout of ranks, and what is refused.

#include "eval/analyzer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "eval/analyses.h"
#include "testing/message_of.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class AnalyzerTest : public ::testing::Test {
 protected:
  AnalyzerTest() {
    const ModelConfig moe = testing::with_shared_gate(testing::tiny_moe_config(4, 2, 12, 8), "softmax", 2, 2);
    testing::write_tiny_model(folder_ / "moe", moe, 1, at::kFloat);
    testing::write_neurons(folder_ / "moe", {{{0, 1}, {2, 3}, {4, 5}, {6, 7}}, {{0, 1}, {0, 1}, {0, 1}, {0, 1}}});
    testing::write_tiny_model(folder_ / "moe2", moe, 2, at::kFloat);
    testing::write_tiny_model(folder_ / "dense", testing::tiny_config(), 1, at::kFloat);
    testing::write_random_documents(folder_ / "a.jsonl", 20, 3, 40, 61, 1);
    testing::write_random_documents(folder_ / "b.jsonl", 9, 3, 30, 61, 2);
    for (const char* domain : {"a", "b"}) {
      v1::DataSource* source = spec_.add_data();
      source->set_path(folder_ / (std::string(domain) + ".jsonl"));
      source->set_weight(1);
      source->set_domain(domain);
    }
    spec_.set_max_tokens(1000);
    spec_.set_append_eos(true);
    spec_.set_sequence_length(48);
  }

  /// The same on every rank.
  json run(const std::string& model, const std::string& baseline = "", int ranks = 1, int expert_parallel = 1) const {
    v1::GangSpec gang;
    gang.set_expert_parallel(expert_parallel);
    json result;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      AnalyzeRequest request{
          .spec = spec_, .gang = gang, .model = folder_ / model, .baseline = {}, .monitor = unwatched()};
      if (!baseline.empty()) request.baseline = folder_ / baseline;
      json mine = analyze(request, world);
      const std::lock_guard<std::mutex> lock(mutex);
      if (!result.is_null()) {
        EXPECT_EQ(result, mine) << "ranks report different results";
      }
      result = std::move(mine);
    });
    return result;
  }

  std::string error_of(const std::string& model) const {
    return testing::message_of([&] { run(model); });
  }

  static std::vector<std::string> names_of(const json& analyses) {
    std::vector<std::string> names;
    for (const auto& [name, result] : analyses.items()) names.push_back(name);
    return names;
  }

  testing::TempDir folder_;
  v1::AnalyzeSpec spec_;
};

TEST_F(AnalyzerTest, TheSameBytesOnEveryLayout) {
  const std::string single = run("moe", "moe2").dump();
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {4, 1}, {2, 2}, {4, 2}})
    EXPECT_EQ(run("moe", "moe2", ranks, expert_parallel).dump(), single) << ranks << " " << expert_parallel;
}

TEST_F(AnalyzerTest, CountsEveryTokenOfEveryDomainOnce) {
  const json result = run("moe", "moe2", 2, 2);
  EXPECT_EQ(names_of(result["analyses"]), names_of(json{{"activation_histograms", 0},
                                                        {"activation_scale", 0},
                                                        {"hidden_clusters", 0},
                                                        {"hidden_projection", 0},
                                                        {"neuron_overlap", 0},
                                                        {"routing", 0},
                                                        {"routing_similarity", 0},
                                                        {"weights", 0}}));
  EXPECT_TRUE(result["passed_over"].empty());
  for (const json& analyses : {result["analyses"], result["baseline"]["analyses"]}) {
    const json& layers = analyses["routing"]["routers"];
    ASSERT_EQ(layers.size(), 2U);
    for (size_t layer = 0; layer < 2; ++layer) {
      SCOPED_TRACE(layer);
      const json& routing = layers[layer]["all"];
      int64_t choices = 0;
      for (const json& load : routing["load"]) choices += load.get<int64_t>();
      EXPECT_EQ(choices, 2 * routing["tokens"].get<int64_t>());
      EXPECT_EQ(routing["tokens"].get<int64_t>(), layers[layer]["domains"]["a"]["tokens"].get<int64_t>() +
                                                      layers[layer]["domains"]["b"]["tokens"].get<int64_t>());
      // Three analyses that count for themselves.
      const json& scale = analyses["activation_scale"]["layers"][layer]["all"];
      double shares = scale["shared_expert"]["output_share"];
      for (size_t e = 0; e < 4; ++e) {
        EXPECT_EQ(scale["experts"][e]["tokens"], routing["load"][e]);
        shares += scale["experts"][e]["output_share"].get<double>();
      }
      EXPECT_NEAR(shares, 1, 1e-12);
      const json& clusters = analyses["hidden_clusters"]["layers"][layer]["all"];
      EXPECT_EQ(clusters["load"], routing["load"]);
      int64_t nearest = 0;
      for (const json& size : clusters["nearest_row"]) nearest += size.get<int64_t>();
      EXPECT_EQ(nearest, routing["tokens"]);
      // Two experts of 12 neurons and a shared one of 8.
      for (const char* values : {"neurons", "gates"}) {
        const json& neurons = analyses["activation_histograms"]["layers"][layer][values]["plain"];
        int64_t activations = neurons["below"].get<int64_t>() + neurons["above"].get<int64_t>();
        for (const json& count : neurons["counts"]) activations += count.get<int64_t>();
        EXPECT_EQ(activations, 32 * routing["tokens"].get<int64_t>()) << values;
      }
    }
  }
  const json same = run("moe", "moe", 2, 1)["baseline"]["analyses"]["routing"]["routers"];
  for (const json& router : same) EXPECT_EQ(router["all"]["agreement"], 1) << "a model with itself";
  EXPECT_LT(result["baseline"]["analyses"]["routing"]["routers"][0]["all"]["agreement"].get<double>(), 1);
  EXPECT_NE(result["analyses"]["routing"], result["baseline"]["analyses"]["routing"]);
  EXPECT_EQ(result["analyses"]["neuron_overlap"]["layers"][0]["duplicate_rate"], 0);
  EXPECT_EQ(result["analyses"]["neuron_overlap"]["layers"][1]["duplicate_rate"], 0.75);
}

TEST_F(AnalyzerTest, EveryAnalysisIsMadeAloneAndGivesItsMetricsAndFigures) {
  const json all = run("moe", "moe2")["analyses"];
  for (const std::string& name : analyses().names()) {
    SCOPED_TRACE(name);
    spec_.clear_analyses();
    spec_.add_analyses(name);
    const json alone = run("moe", "moe2")["analyses"];
    EXPECT_EQ(names_of(alone), std::vector<std::string>{name});
    EXPECT_EQ(alone[name], all[name]);
    for (const auto& [metric, value] : analyses().at(name).metrics(alone[name]))
      EXPECT_TRUE(std::isfinite(value)) << metric;
    const std::vector<Figure> figures = analyses().at(name).figures(alone[name]);
    EXPECT_FALSE(figures.empty());
    for (const Figure& figure : figures) {
      EXPECT_FALSE(figure.name.empty() || figure.title.empty() || figure.note.empty()) << figure.name;
      EXPECT_EQ(figure.rows.size(), figure.values.size()) << figure.name;
      if (figure.form == Figure::Form::kScatter) {
        ASSERT_EQ(figure.x.size(), figure.values.size()) << figure.name;
        for (size_t r = 0; r < figure.x.size(); ++r) EXPECT_EQ(figure.x[r].size(), figure.values[r].size());
        continue;
      }
      for (const std::vector<double>& row : figure.values) EXPECT_LE(row.size(), figure.columns.size()) << figure.name;
    }
  }
}

// Of four experts of attention the first is always on: a router chooses among three.
TEST_F(AnalyzerTest, RoutersOfAttentionStandBehindThoseOfFfns) {
  testing::write_tiny_model(
      folder_ / "both", testing::with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 2, 1), 1, at::kFloat);
  const json result = run("both");
  EXPECT_EQ(run("both", "", 2).dump(), result.dump());
  const json& routers = result["analyses"]["routing"]["routers"];
  ASSERT_EQ(routers.size(), 4U);
  for (size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(routers[layer]["part"], "ffn");
    const json& attention = routers[2 + layer];
    EXPECT_EQ(attention["part"], "attention");
    EXPECT_EQ(attention["layer"], layer);
    ASSERT_EQ(attention["all"]["load"].size(), 3U);
    int64_t choices = 0;
    for (const json& load : attention["all"]["load"]) choices += load.get<int64_t>();
    EXPECT_EQ(choices, 2 * attention["all"]["tokens"].get<int64_t>());
    const json& weights = result["analyses"]["weights"]["layers"][layer];
    EXPECT_EQ(weights["attention_experts"].size(), 4U);
    EXPECT_EQ(weights["experts"].size(), 4U);
    EXPECT_TRUE(weights.contains("attention_router") && weights.contains("router"));
  }
  EXPECT_EQ(result["analyses"]["routing_similarity"]["layer_similarity"].size(), 4U);
  const std::vector<Figure> figures = analyses().at("routing").figures(result["analyses"]["routing"]);
  EXPECT_THAT(figures.front().rows, ::testing::ElementsAre("0", "1", "0 attention", "1 attention"));
}

// A baseline for what routing by a trained router shows.
TEST_F(AnalyzerTest, FreshRoutersAreThoseOfTheModelAloneAndOfText) {
  const json trained = run("moe", "moe");
  spec_.set_routers("fresh");
  const json fresh = run("moe", "moe");
  EXPECT_EQ(fresh["routers"], "fresh");
  EXPECT_FALSE(trained.contains("routers"));
  EXPECT_EQ(run("moe", "moe", 4, 2).dump(), fresh.dump());
  EXPECT_EQ(fresh["analyses"]["weights"], trained["analyses"]["weights"]);
  EXPECT_NE(fresh["analyses"]["routing"], trained["analyses"]["routing"]);
  EXPECT_NE(fresh["analyses"]["hidden_clusters"], trained["analyses"]["hidden_clusters"]);
  for (size_t layer = 0; layer < 2; ++layer) {
    const auto router_of = [&](const json& result) {
      return result["baseline"]["analyses"]["routing"]["routers"][layer];
    };
    EXPECT_EQ(router_of(fresh)["all"]["load"], router_of(trained)["all"]["load"]) << "of the baseline they stay";
    EXPECT_LT(router_of(fresh)["all"]["agreement"].get<double>(), 1);
  }
  EXPECT_THAT(error_of("dense"), HasSubstr("analyze: routers fresh draws routers anew, and " +
                                           (folder_ / "dense").string() + " has none; leave routers out"));
}

TEST_F(AnalyzerTest, ADenseModelHasWhatNeedsNoExperts) {
  const json result = run("dense");
  EXPECT_EQ(names_of(result["analyses"]),
            (std::vector<std::string>{"activation_histograms", "activation_scale", "hidden_projection", "weights"}));
  EXPECT_EQ(names_of(result["passed_over"]),
            (std::vector<std::string>{"hidden_clusters", "neuron_overlap", "routing", "routing_similarity"}));
  EXPECT_THAT(result["passed_over"]["routing"].get<std::string>(), HasSubstr("the model is dense: nothing routes"));
}

TEST_F(AnalyzerTest, WithoutTextTheModelAloneIsLookedAt) {
  spec_.clear_data();
  EXPECT_EQ(names_of(run("moe")["analyses"]), (std::vector<std::string>{"neuron_overlap", "weights"}));
  EXPECT_THAT(run("moe2")["passed_over"]["neuron_overlap"].get<std::string>(),
              HasSubstr("there is no conversion.safetensors"));
}

TEST_F(AnalyzerTest, WhatIsNamedAndCannotBeMadeIsAnError) {
  spec_.add_analyses("routing");
  EXPECT_THAT(error_of("dense"), ::testing::AllOf(HasSubstr("analyze: routing of " + (folder_ / "dense").string()),
                                                  HasSubstr("give it a mixture of experts")));
  spec_.add_analyses("neuron_overlap");
  EXPECT_THAT(error_of("moe2"), HasSubstr("its experts are not known to be made of neurons"));
  spec_.clear_data();
  EXPECT_THAT(error_of("moe"), HasSubstr("analyze: routing looks at text; list JSONL files in `data`"));
  spec_.clear_analyses();
  spec_.add_analyses("rooting");
  EXPECT_THAT(error_of("moe"), HasSubstr("unknown analysis 'rooting'; known: weights, neuron_overlap, routing,"));
}

TEST_F(AnalyzerTest, NeuronsOfOtherExpertsAreAnError) {
  testing::write_neurons(folder_ / "moe", {{{0, 1}, {2, 3}}});
  EXPECT_THAT(error_of("moe"), HasSubstr("model.layers.0.mlp.experts.neurons has not a row for each of 4 experts"));
}

}  // namespace
}  // namespace moe
