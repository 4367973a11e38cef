// convert with a reconstruction, as jobs run it: what it makes, where it may be stopped and how it goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "pipeline/defaults.h"
#include "pipeline/spec.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "worker/job_monitor.h"
#include "worker/jobs.h"
#include "worker/stage_inputs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// May ask to stop, or break, when it was told of so many units, or asked so often whether to stop.
class TestMonitor final : public JobMonitor {
 public:
  struct Plan {
    int stop_at_unit = -1, break_at_unit = -1;
    int stop_at_question = -1;  ///< and from then on
    int first_attempt = 0;      ///< of the job
  };
  TestMonitor(const Configuration& configuration, Communicator& world, Plan plan)
      : JobMonitor(configuration, world), plan_(plan) {}

  bool should_stop() override {
    ++questions_;
    return (plan_.stop_at_question >= 0 && questions_ > plan_.stop_at_question) || units_ == plan_.stop_at_unit;
  }

 private:
  void show(const ProgressUpdate& /*update*/) override {
    if (++units_ == plan_.break_at_unit) throw_agreed<StorageError>("the disk is gone");
  }

  Plan plan_;
  int units_ = 0, questions_ = 0;
};

class ReconstructionRuns : public ::testing::Test {
 protected:
  /// `kind`: of the dense model, testing/tiny_model.h.
  explicit ReconstructionRuns(const char* kind) {
    set_log_level(LogLevel::kError);
    json model = testing::tiny_json(kind);
    model["num_hidden_layers"] = 4;
    testing::write_tiny_model(folder_ / "dense", parse_model_config(model.dump(), "tiny"), 1, at::kFloat);
    testing::write_random_documents(folder_ / "text.jsonl", 60, 20, 40, 61, 1);
  }

  /// The fields of convert.
  json section() const {
    return {{"input", folder_ / "dense"},
            {"ffn", {{"method", "independent_random"}, {"experts", 4}, {"top_k", 2}}},
            {"calibration", {{"tokens", 600}, {"data", {{{"path", folder_ / "text.jsonl"}}}}}},
            {"reconstruction", {{"steps", 30}, {"learning_rate", 3e-3}, {"batch_tokens", 128}}}};
  }

  struct Ran {
    std::optional<JobOutcome> outcome;
    std::string error;
  };
  Ran run(const json& convert, const std::string& job, int ranks = 1, TestMonitor::Plan plan = {}) const {
    const json pipeline{{"apiVersion", "moe/v1"},
                        {"kind", "Pipeline"},
                        {"name", "p"},
                        {"stages", {{{"name", "s"}, {"convert", convert}}}}};
    const v1::PipelineSpec spec = effective_spec(load_pipeline_or_throw(pipeline.dump(), "p.yaml", {}, {}));
    const Configuration configuration = StageInputs(spec).configuration_of(spec.stages(0));
    Ran ran;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      // The last rank alone asks or breaks; all must hear of it.
      TestMonitor monitor(configuration, world,
                          world.rank() == ranks - 1 || plan.break_at_unit >= 0 ? plan : TestMonitor::Plan{});
      const JobContext context{.stage = spec.stages(0),
                               .job_path = folder_ / job,
                               .attempt_path = folder_ / job / "attempts/0001",
                               .output_path = folder_ / job / "output",
                               .attempt = 1,
                               .first_attempt = plan.first_attempt,
                               .configuration = configuration,
                               .model_path = [](const std::string& reference) { return reference; },
                               .world = world,
                               .monitor = monitor,
                               .checkpoints = {}};
      Ran mine;
      try {
        mine.outcome = run_job(context);
      } catch (const std::exception& error) {
        mine.error = error.what();
        if (dynamic_cast<const AgreedError*>(&error) == nullptr) throw;
      }
      const std::lock_guard<std::mutex> lock(mutex);
      ran = std::move(mine);
    });
    return ran;
  }

  fs::path output(const std::string& job) const { return folder_ / job / "output"; }
  json report(const std::string& job) const { return json::parse(read_file(output(job) / "conversion.json")); }

  /// Names of the layers that are kept.
  std::vector<std::string> kept(const std::string& job) const {
    std::vector<std::string> names;
    if (!fs::exists(folder_ / job / "reconstruction")) return names;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / job / "reconstruction")) {
      if (entry.is_regular_file()) names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  fs::path kept_path(const std::string& job, const std::string& name) const {
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / job / "reconstruction")) {
      if (entry.path().filename() == name) return entry.path();
    }
    throw std::runtime_error(name);
  }

  void expect_same_output(const std::string& job, const std::string& expected) const {
    for (const char* file : {"model.safetensors", "config.json", "conversion.json", "conversion.safetensors"}) {
      const bool is_there = fs::exists(output(expected) / file);  // copies name no neurons
      ASSERT_EQ(fs::exists(output(job) / file), is_there) << job << " " << file;
      if (!is_there) continue;
      EXPECT_EQ(read_file(output(job) / file), read_file(output(expected) / file)) << job << " " << file;
    }
  }

  testing::TempDir folder_;
};

class ReconstructionTest : public ReconstructionRuns, public ::testing::WithParamInterface<const char*> {
 protected:
  ReconstructionTest() : ReconstructionRuns(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Kinds, ReconstructionTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(ReconstructionTest, EveryLayerIsNearerToTheDenseOneAndTheModelToTheDenseModel) {
  json plain = section();
  plain.erase("reconstruction");
  const Ran before = run(plain, "plain"), after = run(section(), "trained");
  ASSERT_TRUE(before.outcome && after.outcome);
  const json of_plain = report("plain"), found = report("trained");
  EXPECT_EQ(found["reconstruction"],
            (json{{"steps", 30}, {"learning_rate", 3e-3}, {"batch_tokens", 128}, {"parameters", "all"}}));
  ASSERT_EQ(found["receipt"]["reconstruction"].size(), 4U);
  for (int layer = 0; layer < 4; ++layer) {
    const json& row = found["receipt"]["reconstruction"][layer];
    EXPECT_EQ(row["layer"], layer);
    EXPECT_LT(row["after"].get<double>(), 0.9 * row["before"].get<double>()) << layer;
    EXPECT_EQ(found["layers"][layer]["reconstruction"], (json{{"before", row["before"]}, {"after", row["after"]}}));
    EXPECT_EQ(found["layers"][layer]["relative_ffn_error"], row["after"]);
  }
  // The first layer reads the same in both streams, and its scale was fitted in both alike.
  EXPECT_EQ(found["receipt"]["reconstruction"][0]["before"], of_plain["layers"][0]["relative_ffn_error"]);
  EXPECT_EQ(found["layers"][0]["output_scale"], of_plain["layers"][0]["output_scale"]);
  EXPECT_LT(found["receipt"]["chosen"]["kl_divergence"], of_plain["receipt"]["chosen"]["kl_divergence"]);
  EXPECT_EQ(found["receipt"]["all"]["weights"], "router");
  EXPECT_THAT(kept("trained"), IsEmpty()) << "what was kept goes when the conversion is committed";
  EXPECT_FALSE(fs::exists(folder_ / "trained/reconstruction"));
}

/// What a mixture may be made of, as a change of section().
struct Mixture {
  const char* name;
  const char* change;
};

class ReconstructionOfMixturesTest : public ReconstructionRuns, public ::testing::WithParamInterface<Mixture> {
 protected:
  ReconstructionOfMixturesTest() : ReconstructionRuns("llama") {}
};
INSTANTIATE_TEST_SUITE_P(
    Mixtures, ReconstructionOfMixturesTest,
    ::testing::Values(
        Mixture{"residual", R"({"ffn": {"method": "residual", "experts": 5, "shared_experts": 1}})"},
        Mixture{"shared_gate",
                R"({"ffn": {"method": "residual", "experts": 4, "shared_experts": 2, "shared_gate": "softmax"}})"},
        Mixture{"shared_of_each_layer",
                R"({"ffn": {"method": "weave", "experts": 5, "options": {"shared": "adaptive"}}})"},
        Mixture{"product_of_rows",
                R"({"ffn": {"method": "analytic", "experts": 5, "shared_experts": 1}, "preset": "published"})"},
        Mixture{"two_layers_of_a_gate", R"({"router": {"gate": "mlp", "noise": "learned"}})"},
        Mixture{"sigmoids", R"({"router": {"score": "sigmoid", "topk_norm": "raw"}})"},
        Mixture{"copies", R"({"ffn": {"method": "upcycle", "options": {"variant": "drop"}}})"},
        Mixture{"attention_beside", R"({"attention": {"experts": 2, "top_k": 1}})"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_P(ReconstructionOfMixturesTest, IsNearerToTheDenseOneAtAnyNumberOfRanks) {
  json convert = section();
  convert.merge_patch(json::parse(GetParam().change));
  const Ran one = run(convert, "one");
  ASSERT_TRUE(one.outcome) << one.error;
  const json rows = report("one")["receipt"]["reconstruction"];
  ASSERT_EQ(rows.size(), 4U);
  for (const json& row : rows) EXPECT_LT(row["after"].get<double>(), row["before"].get<double>()) << row;
  ASSERT_TRUE(run(convert, "two", 2).outcome);
  expect_same_output("two", "one");
}

TEST_P(ReconstructionTest, RanksDoNotChangeTheResult) {
  json convert = section();
  convert["ffn"]["layers"] = {"0", "2-3"};  // three mixtures: the ranks have unequal work
  ASSERT_TRUE(run(convert, "one").outcome);
  EXPECT_EQ(report("one")["receipt"]["reconstruction"].size(), 3U);
  for (const int ranks : {2, 4}) {
    ASSERT_TRUE(run(convert, concat("ranks", ranks), ranks).outcome);
    expect_same_output(concat("ranks", ranks), "one");
  }
}

TEST_P(ReconstructionTest, TheRouterAloneLeavesExpertsTheirBits) {
  json plain = section(), router = section(), experts = section();
  plain.erase("reconstruction");
  plain["scale"] = router["scale"] = experts["scale"] = {{"mode", "fixed"}, {"value", 2}};
  router["reconstruction"]["parameters"] = "router";
  experts["reconstruction"]["parameters"] = "experts";
  run(plain, "plain");
  run(router, "router");
  run(experts, "experts");
  const ModelDirectory of_plain(output("plain")), of_router(output("router")), of_experts(output("experts"));
  for (const TensorSpec& spec : logical_tensor_specs(of_plain.config())) {
    const at::Tensor before = of_plain.tensor(spec.name);
    const TensorPart part = spec.id.part;
    const bool is_router = part == TensorPart::kRouter,
               is_expert = part == TensorPart::kGate || part == TensorPart::kUp || part == TensorPart::kDown;
    EXPECT_EQ(at::equal(of_router.tensor(spec.name), before), !is_router) << spec.name;
    EXPECT_EQ(at::equal(of_experts.tensor(spec.name), before), !is_expert) << spec.name;
  }
  EXPECT_EQ(report("router")["receipt"]["all"]["weights"], "one") << "its experts still sum to the dense FFN";
  EXPECT_EQ(report("experts")["receipt"]["all"]["weights"], "router");
  for (const char* job : {"router", "experts"}) {
    for (const json& row : report(job)["receipt"]["reconstruction"]) EXPECT_LT(row["after"], row["before"]) << job;
  }
}

/// Planning tells of four units, and each trained layer of one.
TEST_P(ReconstructionTest, GoesOnAtTheNextLayerAfterAFault) {
  ASSERT_TRUE(run(section(), "undisturbed").outcome);
  const Ran broken = run(section(), "job", 1, {.break_at_unit = 4});  // plan, train, plan, train
  EXPECT_THAT(broken.error, HasSubstr("the disk is gone"));
  EXPECT_FALSE(fs::exists(output("job")));
  EXPECT_THAT(kept("job"), ElementsAre("layer-0.safetensors", "layer-1.safetensors"));
  const fs::file_time_type written = fs::last_write_time(kept_path("job", "layer-0.safetensors"));
  const Ran again = run(section(), "job", 1, {.break_at_unit = 6});
  EXPECT_THAT(again.error, HasSubstr("the disk is gone"));
  EXPECT_THAT(kept("job"), ElementsAre("layer-0.safetensors", "layer-1.safetensors", "layer-2.safetensors"));
  EXPECT_EQ(fs::last_write_time(kept_path("job", "layer-0.safetensors")), written) << "it was trained once";
  ASSERT_TRUE(run(section(), "job", 2).outcome);
  expect_same_output("job", "undisturbed");
  EXPECT_THAT(kept("job"), IsEmpty());
}

TEST_P(ReconstructionTest, StopsBetweenLayersAndWithinOne) {
  ASSERT_TRUE(run(section(), "undisturbed").outcome);
  for (const int ranks : {1, 2}) {
    const std::string between = concat("between", ranks), within = concat("within", ranks);
    const Ran after_one = run(section(), between, ranks, {.stop_at_unit = 2});
    EXPECT_TRUE(!after_one.outcome && after_one.error.empty()) << after_one.error;
    EXPECT_FALSE(fs::exists(output(between)));
    // Steps ask too: of the first group of layers the last is in its tenth step or so.
    const Ran midway = run(section(), within, ranks, {.stop_at_question = 10});
    EXPECT_TRUE(!midway.outcome && midway.error.empty()) << midway.error;
    EXPECT_FALSE(fs::exists(output(within)));
    if (ranks == 2) {
      EXPECT_THAT(kept(within), ElementsAre("layer-0.safetensors")) << "of the rank that was not asked";
    } else {
      EXPECT_THAT(kept(within), IsEmpty());
    }
    for (const std::string& job : {between, within}) {
      ASSERT_TRUE(run(section(), job).outcome);
      expect_same_output(job, "undisturbed");
    }
  }
}

/// Other settings are another conversion, and a file that was damaged is none.
TEST_P(ReconstructionTest, UsesOnlyWhatIsWholeAndItsOwn) {
  json other = section();
  other["reconstruction"]["steps"] = 20;
  ASSERT_TRUE(run(section(), "undisturbed").outcome);
  ASSERT_TRUE(run(other, "other undisturbed").outcome);
  run(section(), "job", 1, {.break_at_unit = 4});
  ASSERT_TRUE(run(other, "job").outcome);
  expect_same_output("job", "other undisturbed");
  EXPECT_THAT(kept("job"), ElementsAre("layer-0.safetensors", "layer-1.safetensors"))
      << "what another configuration made stays";

  run(section(), "fresh", 1, {.break_at_unit = 4});
  run(section(), "fresh", 1, {.break_at_unit = 2, .first_attempt = 2});
  EXPECT_THAT(kept("fresh"), ElementsAre("layer-0.safetensors", "layer-0.safetensors", "layer-1.safetensors"))
      << "what came before was begun anew";

  run(section(), "damaged", 1, {.break_at_unit = 4});
  const fs::path path = kept_path("damaged", "layer-0.safetensors");
  std::string bytes = read_file(path);
  bytes[bytes.size() - 5] ^= 1;
  write_file_atomically(path, bytes);
  write_file_atomically(kept_path("damaged", "layer-1.safetensors"), "{");
  ASSERT_TRUE(run(section(), "damaged").outcome);
  expect_same_output("damaged", "undisturbed");
}

/// A gang that lost its lease may be at work still.
TEST_P(ReconstructionTest, LeavesWhatAnotherGangIsUsing) {
  ASSERT_TRUE(run(section(), "undisturbed").outcome);
  run(section(), "job", 1, {.break_at_unit = 4});
  const fs::path first = kept_path("job", "layer-0.safetensors");
  const fs::file_time_type written = fs::last_write_time(first);
  {
    const FileLock other(folder_ / "job/reconstruction.lock");
    run(section(), "job", 1, {.break_at_unit = 2});
    EXPECT_THAT(kept("job"), ElementsAre("layer-0.safetensors", "layer-0.safetensors", "layer-1.safetensors"));
    ASSERT_TRUE(run(section(), "job", 2).outcome);
  }
  expect_same_output("job", "undisturbed");
  EXPECT_THAT(kept("job"), ElementsAre("layer-0.safetensors", "layer-1.safetensors"));
  EXPECT_EQ(fs::last_write_time(first), written);
}

TEST_P(ReconstructionTest, DoesNotUseLayersOfAnotherVersion) {
  ASSERT_TRUE(run(section(), "undisturbed").outcome);
  run(section(), "job", 1, {.break_at_unit = 4});
  const fs::path path = kept_path("job", "layer-0.safetensors");
  std::string bytes = read_file(path);
  const std::string version = R"("version":"1")";
  const size_t at = bytes.find(version);
  ASSERT_NE(at, std::string::npos);
  bytes[at + version.size() - 2] = '0';
  write_file_atomically(path, bytes);
  run(section(), "job", 1, {.break_at_unit = 2});
  EXPECT_NE(read_file(path), bytes) << "it was not trained again";
  ASSERT_TRUE(run(section(), "job").outcome);
  expect_same_output("job", "undisturbed");
}

TEST_P(ReconstructionTest, IsAlignedAfterwards) {
  json convert = section();
  convert["scale"] = {{"alignment", "mean_variance"}};
  convert["ffn"]["layers"] = {"0", "2-3"};
  ASSERT_TRUE(run(convert, "one").outcome);
  const json found = report("one");
  for (const int layer : {0, 2, 3}) {
    EXPECT_TRUE(found["layers"][layer].contains("alignment")) << layer;
    EXPECT_TRUE(found["layers"][layer].contains("reconstruction")) << layer;
  }
  EXPECT_FALSE(found["layers"][1].contains("alignment"));
  run(convert, "job", 2, {.break_at_unit = 5});
  ASSERT_TRUE(run(convert, "job", 4).outcome);
  expect_same_output("job", "one");
}

TEST_P(ReconstructionTest, ADivergedLayerIsNamed) {
  json convert = section();
  convert["reconstruction"]["learning_rate"] = 1e30;
  for (const int ranks : {1, 2}) {
    const Ran ran = run(convert, "job", ranks);
    EXPECT_THAT(ran.error, ::testing::ContainsRegex("the reconstruction of layer [01] diverged"));
    EXPECT_FALSE(fs::exists(output("job")));
  }
}

}  // namespace
}  // namespace moe
