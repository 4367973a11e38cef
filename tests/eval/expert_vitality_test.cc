#include "eval/expert_vitality.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "eval/analyzer.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int64_t kRowTokens = 48;

/// A mixture in layer 1 alone, with a shared expert and experts of different widths; experts of attention in both
/// layers; two files of held-out ids. By the kind of model.
class ExpertVitalityTest : public ::testing::TestWithParam<std::string> {
 protected:
  ExpertVitalityTest() {
    ModelConfig config = testing::with_dense_layer(testing::tiny_moe_config(4, 2, 12, 8, GetParam()), 0);
    config.moe->set_expert_widths(1, {12, 5, 12, 9});
    config = testing::with_attention_experts(config, 2, 1);
    testing::write_tiny_model(folder_ / "moe", config, 1, at::kDouble);
    for (const char* domain : {"a", "b"}) {
      testing::write_random_documents(folder_ / (std::string(domain) + ".jsonl"), 60, 3, 40, 61, domain[0]);
      files_.push_back({(folder_ / (std::string(domain) + ".jsonl")).string(), 1, domain});
    }
  }

  /// The same on every rank. `change` is made to the model first.
  std::vector<ExpertVitality> measure(int ranks, int expert_parallel,
                                      const std::function<void(const Decoder&)>& change = {}) const {
    std::vector<ExpertVitality> result;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      Mesh mesh(world, expert_parallel);
      const LoadedModel model = load_model(folder_ / "moe", mesh, at::kDouble);
      if (change) change(model.decoder);
      HeldOutOptions options;
      options.packing.sequence_length = kRowTokens;
      options.packing.vocab_size = 61;
      HeldOutData data(files_, model.text.tokenizer, options);
      EXPECT_GT(data.rows(), 3 * kVitalityRows) << "not all of it is looked at";
      std::vector<ExpertVitality> mine = measure_expert_vitality(model, data, mesh);
      const std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < result.size(); ++i) {
        EXPECT_EQ(mine[i].output_share, result[i].output_share);
        EXPECT_EQ(mine[i].weight_norm, result[i].weight_norm);
      }
      result = std::move(mine);
    });
    return result;
  }

  testing::TempDir folder_;
  std::vector<DataFile> files_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, ExpertVitalityTest, ::testing::Values("llama_biases", "phi"),
                         [](const auto& test) { return test.param; });

/// What the analyses say of the same model and tokens; on eight ranks some have no row.
TEST_P(ExpertVitalityTest, AgreesWithTheAnalysesOnEveryLayout) {
  v1::AnalyzeSpec spec;
  for (const DataFile& file : files_) {
    v1::DataSource* const source = spec.add_data();
    source->set_path(file.path);
    source->set_weight(1);
    source->set_domain(file.domain);
  }
  for (const char* name : {"weights", "activation_scale"}) spec.add_analyses(name);
  spec.set_sequence_length(kRowTokens);
  // Rows are not all full: text is taken until there are as many tokens, and a fourth row is begun for the last of
  // these.
  spec.set_max_tokens((kVitalityRows - 1) * kRowTokens + 1);
  spec.set_append_eos(true);
  v1::GangSpec gang;
  gang.set_dtype("float64");
  const auto self = make_self_communicator();
  const json analyses =
      analyze({.spec = spec, .gang = gang, .model = folder_ / "moe", .baseline = {}, .monitor = unwatched()},
              *self)["analyses"];
  const json& weights = analyses["weights"]["layers"];
  const json& outputs = analyses["activation_scale"]["layers"][1]["all"]["experts"];
  for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 2}, {8, 2}}) {
    SCOPED_TRACE(::testing::Message() << ranks << " ranks, expert_parallel " << expert_parallel);
    const std::vector<ExpertVitality> parts = measure(ranks, expert_parallel);
    ASSERT_EQ(parts.size(), 3U);
    EXPECT_EQ(std::pair(parts[0].part, parts[0].layer), std::pair(std::string("ffn"), int64_t{1}));
    ASSERT_EQ(parts[0].output_share.size(), 4U);
    for (size_t e = 0; e < 4; ++e)
      EXPECT_NEAR(parts[0].output_share[e], outputs[e]["output_share"].get<double>(), 1e-12);
    for (const ExpertVitality& part : parts) {
      const json& sizes = weights[part.layer][part.part == "ffn" ? "experts" : "attention_experts"];
      ASSERT_EQ(part.weight_norm.size(), sizes.size());
      for (size_t e = 0; e < sizes.size(); ++e) {
        EXPECT_NEAR(part.weight_norm[e], sizes[e]["norm"].get<double>(), 1e-12);
        EXPECT_NEAR(part.weight_rms[e], sizes[e]["rms"].get<double>(), 1e-12);
      }
    }
    EXPECT_TRUE(parts[1].output_share.empty() && parts[2].output_share.empty());
  }
}

TEST_P(ExpertVitalityTest, AnExpertThatGivesNothingIsSeenWhateverItsLoad) {
  const std::vector<ExpertVitality> alive = measure(2, 2),
                                    dead = measure(2, 2, [](const Decoder&decoder) {
                                      const at::NoGradGuard no_grad;
                                      for (const Parameter& parameter : decoder.parameters()) {
                                        const bool is_down =
                                            parameter.id.part == TensorPart::kDown && parameter.is_expert;
                                        if (is_down && parameter.experts.first == 2)
                                          parameter.value.detach()[1].zero_();  // expert 3, bias included
                                      }
                                    });
  EXPECT_GT(worst_of(alive, &ExpertVitality::output_share), 0.1);
  EXPECT_EQ(dead[0].output_share[3], 0);
  EXPECT_EQ(worst_of(dead, &ExpertVitality::output_share), 0);
  EXPECT_LT(dead[0].weight_norm[3], alive[0].weight_norm[3]);
  EXPECT_EQ(dead[0].weight_norm[2], alive[0].weight_norm[2]);
  EXPECT_LT(least_over_mean(dead[0].weight_rms), least_over_mean(alive[0].weight_rms));
}

TEST(WorstExpertTest, IsThatOfTheWorstPart) {
  std::vector<ExpertVitality> parts(3);
  parts[0].output_share = {0.25, 0.75};
  parts[1].output_share = {0.5, 0.5};  // parts[2] has none
  EXPECT_DOUBLE_EQ(worst_of(parts, &ExpertVitality::output_share), 0.5);
  EXPECT_EQ(worst_of(parts, &ExpertVitality::weight_rms), 1);
  EXPECT_EQ(worst_of({}, &ExpertVitality::output_share), 1);
}

/// A part that is dead as a whole, or not finite, is not taken for one that is well.
TEST(WorstExpertTest, NothingAndNotANumberAreNotHealth) {
  EXPECT_EQ(least_over_mean({0, 0}), 0);
  EXPECT_TRUE(std::isnan(least_over_mean({1, std::nan("")})));
  EXPECT_TRUE(std::isnan(least_over_mean({1, INFINITY})));
  std::vector<ExpertVitality> parts(2);
  parts[0].output_share = {0, 0};
  EXPECT_EQ(worst_of(parts, &ExpertVitality::output_share), 0);
  parts[1].output_share = {1, std::nan("")};
  EXPECT_TRUE(std::isnan(worst_of(parts, &ExpertVitality::output_share)));
}

}  // namespace
}  // namespace moe
