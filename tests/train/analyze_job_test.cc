// The job kind `analyze`: what it writes, against sums over the models' values one by one.

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/work_monitor.h"
#include "model/tensor_specs.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "worker/jobs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Sums {
  double count = 0, squares = 0, largest = 0, changed = 0, before = 0;

  void add(const at::Tensor& values, const at::Tensor& base) {
    const at::Tensor now = values.to(at::kDouble).contiguous(), then = base.to(at::kDouble).contiguous();
    for (int64_t i = 0; i < now.numel(); ++i) {
      const double value = now.const_data_ptr<double>()[i], old = then.const_data_ptr<double>()[i];
      ++count;
      squares += value * value;
      largest = std::max(largest, std::abs(value));
      changed += (value - old) * (value - old);
      before += old * old;
    }
  }
};

void expect_sums(const json& row, const Sums& sums) {
  EXPECT_NEAR(row.at("norm"), std::sqrt(sums.squares), 1e-10 * std::sqrt(sums.squares));
  EXPECT_NEAR(row.at("rms"), std::sqrt(sums.squares / sums.count), 1e-10 * std::sqrt(sums.squares));
  EXPECT_EQ(row.at("largest"), sums.largest);
  EXPECT_NEAR(row.at("change"), std::sqrt(sums.changed / sums.before), 1e-6);
}

class AnalyzeJobTest : public ::testing::Test {
 protected:
  AnalyzeJobTest() {
    const ModelConfig config = testing::tiny_moe_config(4, 2, 8, 16);
    testing::write_tiny_model(folder_ / "before", config, 1, at::kBFloat16);
    testing::write_tiny_model(folder_ / "after", config, 2, at::kFloat);
    stage_.set_name("a");
    stage_.mutable_analyze()->set_input("after");
    stage_.mutable_analyze()->set_baseline("before");
  }

  /// On so many ranks; the metrics, which are those of every rank.
  Metrics run(int ranks, const std::string& output) {
    std::mutex mutex;
    std::map<int, Metrics> found;
    testing::run_ranks(ranks, [&](Communicator& world) {
      const JobContext context{.stage = stage_,
                               .job_path = folder_.path(),
                               .attempt_path = folder_.path(),
                               .output_path = folder_ / output,
                               .configuration = {stage_, {}},
                               .model_path = [&](const std::string& name) { return folder_ / name; },
                               .world = world,
                               .monitor = unwatched(),
                               .checkpoints = {}};
      const JobOutcome outcome = run_job(context).value();
      const std::lock_guard<std::mutex> lock(mutex);
      found[world.rank()] = outcome.metrics;
    });
    for (const auto& [rank, metrics] : found) EXPECT_EQ(metrics, found[0]) << rank;
    return found[0];
  }
  json analysis(const std::string& output) { return json::parse(read_file(folder_ / output / "analysis.json")); }
  json weights_of(const std::string& output) { return analysis(output)["analyses"]["weights"]; }

  testing::TempDir folder_;
  v1::Stage stage_;
};

TEST_F(AnalyzeJobTest, SumsEveryTensorPartAndExpert) {
  const Metrics metrics = run(1, "one");
  const json found = weights_of("one");
  const ModelDirectory after(folder_ / "after"), before(folder_ / "before");
  const std::vector<TensorSpec> specs = logical_tensor_specs(after.config());
  ASSERT_EQ(found["tensors"].size(), specs.size());
  Sums all;
  std::map<std::pair<int64_t, std::string>, Sums> parts;
  for (size_t i = 0; i < specs.size(); ++i) {
    SCOPED_TRACE(specs[i].name);
    const at::Tensor now = after.tensor(specs[i].name), then = before.tensor(specs[i].name);
    Sums one;
    one.add(now, then);
    all.add(now, then);
    EXPECT_EQ(found["tensors"][i]["name"], specs[i].name);
    EXPECT_EQ(found["tensors"][i]["shape"], specs[i].shape);
    expect_sums(found["tensors"][i], one);
    // By the names that stand in files, where the job asks ids.
    const std::string& name = specs[i].name;
    const auto has = [&](const char* text) { return name.find(text) != std::string::npos; };
    std::string part = has("self_attn") ? "attention"
                       : has("router")  ? "router"
                       : has("shared")  ? "shared_expert"
                                        : "norms";
    if (has(".experts.")) part = name.substr(name.find(".experts.") + 9, 1);
    parts[{specs[i].id.layer, part}].add(now, then);
  }
  ASSERT_EQ(found["layers"].size(), 2U);
  for (const json& layer : found["layers"]) {
    const int64_t number = layer["layer"];
    SCOPED_TRACE(number);
    EXPECT_EQ(layer.size(), 6U);
    for (const char* part : {"attention", "router", "shared_expert", "norms"})
      expect_sums(layer.at(part), parts.at({number, part}));
    ASSERT_EQ(layer["experts"].size(), 4U);
    for (size_t e = 0; e < 4; ++e) expect_sums(layer["experts"][e], parts.at({number, std::to_string(e)}));
  }
  EXPECT_NEAR(metrics.at("weight_norm"), std::sqrt(all.squares), 1e-10 * std::sqrt(all.squares));
  EXPECT_EQ(metrics.at("largest_weight"), all.largest);
  EXPECT_NEAR(metrics.at("weight_change"), std::sqrt(all.changed / all.before), 1e-6);
  EXPECT_EQ(analysis("one")["metrics"], json(metrics));
  expect_sums(found["all"], all);
  double least = 1;
  for (const json& layer : found["layers"]) {
    double sum = 0, smallest = 1e9;
    for (const json& expert : layer["experts"]) {
      sum += expert["rms"].get<double>();
      smallest = std::min(smallest, expert["rms"].get<double>());
    }
    least = std::min(least, smallest / (sum / 4));
  }
  EXPECT_LT(least, 1);
  EXPECT_NEAR(metrics.at("least_expert_rms_over_mean"), least, 1e-12);
}

TEST_F(AnalyzeJobTest, IsTheSameOnAnyRanksAndWithoutABaseline) {
  const Metrics metrics = run(1, "one");
  EXPECT_EQ(run(3, "three"), metrics);
  EXPECT_EQ(analysis("three"), analysis("one"));
  stage_.mutable_analyze()->clear_baseline();
  Metrics alone = run(2, "alone");
  EXPECT_FALSE(weights_of("alone")["tensors"][0].contains("change"));
  EXPECT_EQ(alone.count("weight_change"), 0U);
  alone["weight_change"] = metrics.at("weight_change");
  EXPECT_EQ(alone, metrics);
}

TEST_F(AnalyzeJobTest, AModelOfOtherTensorsIsNoBaselineAndNothingIsWritten) {
  fs::remove_all(folder_ / "before");
  testing::write_tiny_model(folder_ / "before", testing::tiny_config(), 1, at::kFloat);
  EXPECT_THAT([&] { run(2, "none"); },
              ThrowsMessage<InvalidArgument>(::testing::AllOf(
                  HasSubstr("analyze: baseline " + (folder_ / "before").string()), HasSubstr("leave baseline out"))));
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

// A training may add selection biases to routers that had none: they are measured, and compared with nothing.
TEST_F(AnalyzeJobTest, SelectionBiasesNeedNoBaseline) {
  ModelConfig config = testing::tiny_moe_config(4, 2, 8, 16);
  config.moe->has_selection_bias = true;
  fs::remove_all(folder_ / "after");
  testing::write_tiny_model(folder_ / "after", config, 2, at::kFloat);
  run(2, "biased");
  const json layer = weights_of("biased")["layers"][1];
  EXPECT_GT(layer["selection_bias"]["norm"].get<double>(), 0);
  EXPECT_FALSE(layer["selection_bias"].contains("change"));
  EXPECT_GT(layer["router"]["change"].get<double>(), 0);
}

// The router of router.init zero: there is no change to tell, where all else has one.
TEST_F(AnalyzeJobTest, WhatWasZeroHasNoChange) {
  fs::remove_all(folder_ / "before");
  fs::copy(folder_ / "after", folder_ / "before", fs::copy_options::recursive);
  const fs::path weights = folder_ / "before/model.safetensors";
  std::string bytes = read_file(weights);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const json tensors = json::parse(bytes.substr(8, header));
  const std::string router = "model.layers.0.mlp.router.weight";
  const std::vector<size_t> range = tensors.at(router).at("data_offsets");
  std::fill(bytes.begin() + 8 + header + range[0], bytes.begin() + 8 + header + range[1], '\0');
  write_file_atomically(weights, bytes);
  run(1, "zero");
  const json layers = weights_of("zero")["layers"];
  EXPECT_FALSE(layers[0]["router"].contains("change"));
  EXPECT_EQ(layers[1]["router"]["change"], 0);
}

TEST_F(AnalyzeJobTest, ADenseModelHasNoExperts) {
  fs::remove_all(folder_ / "after");
  testing::write_tiny_model(folder_ / "after", testing::tiny_config(), 1, at::kFloat);
  stage_.mutable_analyze()->clear_baseline();
  EXPECT_EQ(run(1, "dense").at("least_expert_rms_over_mean"), 1);
  const json layer = weights_of("dense")["layers"][0];
  EXPECT_TRUE(layer.contains("ffn"));
  EXPECT_FALSE(layer.contains("experts"));
}

/// The files of a folder and of those in it, by name.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder)] = read_file(entry.path());
  }
  return files;
}

// JSON, page and drawings, the same bytes whatever ranks made them.
TEST_F(AnalyzeJobTest, OfTextLeavesAPageAndDrawings) {
  for (const char* domain : {"a", "b"}) {
    testing::write_random_documents(folder_ / (std::string(domain) + ".jsonl"), 12, 3, 30, 61, domain[0]);
    v1::DataSource* source = stage_.mutable_analyze()->add_data();
    source->set_path(folder_ / (std::string(domain) + ".jsonl"));
    source->set_weight(1);
    source->set_domain(domain);
  }
  stage_.mutable_analyze()->set_max_tokens(300);
  stage_.mutable_analyze()->set_sequence_length(32);
  const Metrics metrics = run(1, "one");
  const std::map<std::string, std::string> files = contents(folder_ / "one");
  EXPECT_EQ(json(metrics), json::parse(files.at("analysis.json"))["metrics"]);
  EXPECT_TRUE(metrics.contains("least_output_share_over_mean") && metrics.contains("domain_similarity"));
  EXPECT_FALSE(metrics.contains("neuron_overlap")) << "the model was not converted";
  EXPECT_THAT(files.at("analysis.html"),
              ::testing::AllOf(HasSubstr("<h2>Activation scale</h2>"), HasSubstr("Load of the experts, b</figcaption>"),
                               HasSubstr("Share of the layer&#39;s output – baseline"),
                               HasSubstr("<dt>no neuron_overlap</dt>")));
  for (const char* figure : {"load-2", "probability-2", "importance", "load-counts", "losses", "together-1"})
    EXPECT_TRUE(files.contains(std::string("figures/routing_") + figure + ".svg")) << figure;
  EXPECT_TRUE(files.contains("figures/activation_scale_output-share_baseline.svg"));
  run(2, "two");
  EXPECT_EQ(contents(folder_ / "two"), files);
  stage_.mutable_analyze()->set_routers("fresh");
  stage_.set_seed(7);
  run(1, "fresh");
  EXPECT_THAT(read_file(folder_ / "fresh/analysis.html"),
              HasSubstr("<dt>routers</dt><dd>drawn anew, of seed 7; those of the baseline are its own</dd>"));
  EXPECT_NE(contents(folder_ / "fresh").at("figures/routing_load.svg"), files.at("figures/routing_load.svg"));
}

}  // namespace
}  // namespace moe
