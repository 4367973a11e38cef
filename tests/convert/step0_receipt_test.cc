// What conversion.json says of the written model, against whole models that are run at once, in double.
#include "convert/step0_receipt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "convert/converter.h"
#include "convert/fixture_methods.h"
#include "data/documents.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::convert;
using testing::convert_by_fixture;
using testing::convert_spec;

/// A whole model on the rows that follow those of the calibration.
struct ModelRun {
  at::Tensor logits_TV, losses_T;                               ///< double
  std::map<int64_t, at::Tensor> ffn_inputs, attended, outputs;  ///< by layer
  std::vector<RouterStats> routers;
};

ModelRun run_model(const std::filesystem::path& model, const PackedBatch& batch) {
  const at::NoGradGuard no_grad;
  const ModelDirectory directory(model);
  const Decoder decoder = load_decoder(directory, at::kDouble, all_experts(directory.config()));
  ModelRun made;
  ForwardOptions options;
  options.observer = [&made](int64_t layer, LayerPoint point, const at::Tensor& values) {
    if (point == LayerPoint::kFfnInput) made.ffn_inputs[layer] = values.clone();
    if (point == LayerPoint::kAttended) made.attended[layer] = values.clone();
    if (point == LayerPoint::kOutput) made.outputs[layer] = values.clone();
  };
  LocalDispatcher dispatcher;
  DecoderOutput out = decoder.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher, options);
  made.logits_TV = decoder.logits(out.hidden_TD);
  made.losses_T = decoder.token_losses(out.hidden_TD, batch.labels_T);
  made.routers = std::move(out.router);
  return made;
}

double mean_divergence(const ModelRun& reference, const ModelRun& other) {
  const at::Tensor log_p = at::log_softmax(reference.logits_TV, -1), log_q = at::log_softmax(other.logits_TV, -1);
  return (log_p.exp() * (log_p - log_q)).sum().item<double>() / static_cast<double>(log_p.size(0));
}

/// sum |dense FFN(x) - FFN(x)|^2 / sum |dense FFN(x)|^2 on the converted stream.
double ffn_error(const std::filesystem::path& dense, const ModelRun& converted, int64_t layer) {
  const Layer of_dense = load_layer(ModelDirectory(dense), layer, at::kDouble);
  const at::Tensor wanted = feed_forward(std::get<FeedForwardWeights>(of_dense.ffn), converted.ffn_inputs.at(layer)),
                   given = converted.outputs.at(layer) - converted.attended.at(layer);
  return ((wanted - given).square().sum() / wanted.square().sum()).item<double>();
}

class ReceiptTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ReceiptTest() : ConversionTest(GetParam()) {}

  /// The receipt against a run of the written model; of k = all against `all`.
  void expect_measured(const json& receipt, const std::filesystem::path& output, const std::filesystem::path& all,
                       int64_t calibration) const {
    const PackedBatch batch = testing::held_out_rows(testing::tiny_config(GetParam()), ids(), 1, calibration);
    const ModelRun of_dense = run_model(dense(), batch), chosen = run_model(output, batch),
                   of_all = run_model(all, batch);
    const int64_t targets = batch.labels_T.ge(0).sum().item<int64_t>();
    EXPECT_EQ(receipt["held_out"], true);
    EXPECT_EQ(receipt["tokens"], batch.tokens_T.numel());
    EXPECT_EQ(receipt["targets"], targets);
    const auto expect_loss = [&](const json& found, const ModelRun& expected) {
      const double loss = expected.losses_T.sum().item<double>() / static_cast<double>(targets);
      EXPECT_NEAR(found["loss"].get<double>(), loss, 1e-6 * loss);
      EXPECT_NEAR(found["perplexity"].get<double>(), std::exp(loss), 1e-5 * std::exp(loss));
    };
    expect_loss(receipt["dense"], of_dense);
    expect_loss(receipt["chosen"], chosen);
    expect_loss(receipt["all"], of_all);
    const double divergence = mean_divergence(of_dense, chosen);
    EXPECT_GT(divergence, 1e-3) << "nothing was compared";
    EXPECT_NEAR(receipt["chosen"]["kl_divergence"].get<double>(), divergence, 1e-4 * divergence);
    EXPECT_NEAR(receipt["all"]["kl_divergence"].get<double>(), mean_divergence(of_dense, of_all), 1e-5 * divergence);
    ASSERT_EQ(receipt["layers"].size(), 2U);
    int64_t dead = 0;
    for (int64_t layer = 0; layer < 2; ++layer) {
      const json& found = receipt["layers"][layer];
      EXPECT_EQ(found["layer"], layer);
      const double error = ffn_error(dense(), chosen, layer);
      EXPECT_NEAR(found["relative_ffn_error"].get<double>(), error, 1e-4 * error);
      const at::Tensor router =
          ModelDirectory(output).tensor(concat("model.layers.", layer, ".mlp.router.weight")).to(at::kDouble);
      const double deviation =
          at::matmul(chosen.ffn_inputs.at(layer), router.t()).std(/*unbiased=*/false).item<double>();
      EXPECT_NEAR(found["router_logit_deviation"].get<double>(), deviation, 1e-5 * deviation);
      const at::Tensor load = chosen.routers.at(layer).tokens_per_expert_E;
      const double even = load.to(at::kDouble).mean().item<double>();
      for (int64_t expert = 0; expert < load.numel(); ++expert)
        EXPECT_EQ(found["expert_load"][expert], load[expert].item<int64_t>());
      EXPECT_NEAR(found["least_load"].get<double>(), load.min().item<double>() / even, 1e-12);
      EXPECT_NEAR(found["greatest_load"].get<double>(), load.max().item<double>() / even, 1e-12);
      dead += load.eq(0).sum().item<int64_t>();
    }
    EXPECT_EQ(receipt["dead_experts"], dead);
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, ReceiptTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

/// With all experts at weight one the parts are the dense model, so that its run is the reference of both.
TEST_P(ReceiptTest, IsWhatTheWrittenModelGives) {
  const json report = convert(convert_spec("independent_random", 4, 2, ids()), 1, dense(), out());
  expect_measured(report["receipt"], out(), dense(), 1024);
  EXPECT_EQ(report["receipt"]["chosen"]["experts"], 2);
  EXPECT_EQ(report["receipt"]["all"]["experts"], 4);
  EXPECT_EQ(report["receipt"]["all"]["weights"], "one");
  EXPECT_EQ(json::parse(read_file(out() / "conversion.json"))["receipt"], report["receipt"]);
}

/// Shared parts and experts of unequal width; and a router with a dead expert.
TEST_P(ReceiptTest, OfSharedPartsAndADeadExpert) {
  v1::ConvertSpec spec = convert_spec("shared_uneven", 4, 2, ids());
  spec.mutable_router()->set_init("zero");  // ties go to the lowest: two experts of four are dead
  const json report = convert_by_fixture(spec, 1, dense(), out(), *make_self_communicator());
  expect_measured(report["receipt"], out(), dense(), 1024);
  EXPECT_EQ(report["receipt"]["dead_experts"], 4);
  EXPECT_EQ(report["receipt"]["layers"][0]["greatest_load"], 2);
  EXPECT_EQ(report["receipt"]["layers"][0]["least_load"], 0);
}

/// The parts of a partition are the dense model, whatever router and scale: to 1e-5 of the largest logit.
TEST_P(ReceiptTest, AllExpertsAtWeightOneAreTheDenseModel) {
  const auto expect_dense = [&](const json& receipt, const std::string& what) {
    EXPECT_LT(receipt["all"]["relative_logit_difference"].get<double>(), 1e-5) << what;
    EXPECT_LT(receipt["all"]["kl_divergence"].get<double>(), 1e-9) << what;
    EXPECT_NEAR(receipt["all"]["loss"].get<double>(), receipt["dense"]["loss"].get<double>(), 1e-6) << what;
  };
  int partitions = 0;
  for (const std::string& method : conversion_methods().names()) {
    if (!testing::no_partition_of(method, testing::tiny_config(GetParam())).empty()) continue;
    for (const int units : {1, 4, 16}) {
      if (!testing::sizes_of(method, 48, units, 2)) continue;
      const std::string what = concat(method, "-", units);
      const json report = convert(testing::method_spec(method, units, 2, ids()), 3, dense(), folder_ / what);
      expect_dense(report["receipt"], what);
      ++partitions;
    }
  }
  EXPECT_GE(partitions, 9);
  for (const char* method : {"shared_uneven", "by_importance"}) {
    const json report =
        convert_by_fixture(convert_spec(method, 4, 2, ids()), 3, dense(), folder_ / method, *make_self_communicator());
    expect_dense(report["receipt"], method);
  }
}

using ReceiptsTest = testing::ConversionTest;

/// Of what is no partition, all experts are weighed by the router: as a model does whose top-k is all.
TEST_F(ReceiptsTest, WithoutAPartitionTheRouterWeighsAllExperts) {
  testing::write_dense_model(folder_ / "second", testing::tiny_config(), 77);
  const json report = convert_by_fixture(convert_spec("blend", 4, 2, ids()), 1, dense(), out(),
                                         *make_self_communicator(), {folder_ / "second"});
  const json& all = report["receipt"]["all"];
  EXPECT_EQ(all["weights"], "router");
  EXPECT_FALSE(all.contains("largest_logit_difference")) << "the identity does not hold";
  std::filesystem::copy(out(), folder_ / "all", std::filesystem::copy_options::recursive);
  json config = json::parse(read_file(out() / "config.json"));
  config["moe"]["top_k"] = 4;
  write_file_atomically(folder_ / "all" / "config.json", config.dump());
  const PackedBatch batch = testing::held_out_rows(testing::tiny_config(), ids(), 1, 1024);
  const ModelRun of_dense = run_model(dense(), batch), of_all = run_model(folder_ / "all", batch);
  EXPECT_NEAR(all["loss"].get<double>(),
              of_all.losses_T.sum().item<double>() / batch.labels_T.ge(0).sum().item<double>(), 1e-5);
  EXPECT_NEAR(all["kl_divergence"].get<double>(), mean_divergence(of_dense, of_all), 1e-5);

  // Taken for a partition, it is found out.
  const ModelDirectory source(dense()), written(out());
  const auto world = make_self_communicator();
  const CalibrationText text =
      read_calibration_text(convert_spec("blend", 4, 2, ids()), 1, source.config(), {}, *world);
  const json wrong = step0_receipt({.dense = source, .converted = written, .text = text}, *world);
  EXPECT_GT(wrong["all"]["relative_logit_difference"].get<double>(), 0.01);
}

TEST_F(ReceiptsTest, IsTheSameBytesAtAnyNumberOfRanks) {
  convert(convert_spec("independent_random", 4, 2, ids()), 1, dense(), out());
  const ModelDirectory source(dense()), written(out());
  std::vector<std::string> found;
  for (const int ranks : {1, 2, 4, 20}) {  // more ranks than rows
    testing::run_ranks(ranks, [&](Communicator& world) {
      v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
      const CalibrationText text = read_calibration_text(spec, 1, source.config(), {}, world);
      const std::string receipt = step0_receipt({.dense = source, .converted = written, .text = text}, world).dump();
      if (world.rank() == ranks - 1) found.push_back(receipt);
    });
  }
  EXPECT_THAT(found, ::testing::Each(found.front()));
}

/// The files hold no more than the calibration takes: it is measured on that, and says so.
TEST_F(ReceiptsTest, WithoutOtherTextItIsOfTheTextThatWasFitted) {
  v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
  int64_t inputs = 0;
  for (const IdLine& line : read_id_documents(ids().string(), testing::tiny_config().vocab_size))
    inputs += static_cast<int64_t>(line.ids.size()) - 1;
  spec.mutable_calibration()->set_tokens(inputs);
  const json all = convert(spec, 1, dense(), folder_ / "all");
  EXPECT_EQ(all["receipt"]["held_out"], false);
  EXPECT_GE(all["receipt"]["tokens"].get<int64_t>(), 2048);
  for (size_t layer = 0; layer < 2; ++layer) {
    const json &fitted = all["layers"][layer], &measured = all["receipt"]["layers"][layer];
    EXPECT_NEAR(measured["relative_ffn_error"].get<double>(), fitted["relative_ffn_error"].get<double>(), 0.05)
        << "nearly the same tokens";
  }
  // At most 200 tokens are left.
  spec.mutable_calibration()->set_tokens(inputs - 200);
  EXPECT_EQ(convert(spec, 1, dense(), folder_ / "few")["receipt"]["held_out"], false);
}

TEST_F(ReceiptsTest, WithoutTextThereIsNone) {
  EXPECT_FALSE(convert(convert_spec("sequential", 4, 1), 1, dense(), out()).contains("receipt"));
}

/// Ends the work at a unit.
class Stopper final : public WorkMonitor {
 public:
  explicit Stopper(int64_t at) : at_(at) {}
  void unit_done(const WorkProgress& progress) override {
    if (progress.done == at_) throw_agreed<Error>("stopped");
  }

 private:
  int64_t at_;
};

TEST_F(ReceiptsTest, AStopWhileItIsMeasuredLeavesNothing) {
  const OpenedModel source = open_model(dense());
  const v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
  for (const int64_t at : {3, 4}) {  // two layers are converted, then two are measured
    std::atomic<int> stopped = 0;
    testing::run_ranks(2, [&](Communicator& world) {
      Stopper stopper(at);
      try {
        convert_model({.spec = spec,
                       .seed = 1,
                       .source = source.directory,
                       .text = source.text,
                       .output = out(),
                       .monitor = stopper},
                      world);
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("stopped"));
        ++stopped;
      }
    });
    EXPECT_EQ(stopped, 2);
    EXPECT_FALSE(std::filesystem::exists(out()));
    EXPECT_FALSE(std::filesystem::exists(out().string() + ".partial"));
  }
}

}  // namespace
}  // namespace moe
