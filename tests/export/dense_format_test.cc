// The way back: a converted model as the dense one that it was made of.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>

#include "checkpoint/model_directory.h"
#include "checkpoint/model_writer.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "export/export_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::export_spec;
using ::testing::HasSubstr;
using testing::refusal;

v1::ExportSpec dense_spec() {
  v1::ExportSpec spec = export_spec("dense");
  spec.set_dtype("source");
  return spec;
}

/// A conversion of a dense model on text, both of which are written into the folder.
v1::ConvertSpec conversion_in(const testing::TempDir& folder, const std::string& method, int experts, int top_k) {
  testing::write_dense_model(folder / "dense", testing::tiny_config(), 11);
  testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
  v1::ConvertSpec spec = testing::convert_spec(method, experts, top_k, folder / "ids.jsonl");
  spec.mutable_calibration()->set_tokens(300);
  return spec;
}

struct Case {
  std::string method;
  std::string family;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& method : conversion_methods().names()) {
    for (const char* family : {"llama", "qwen2", "phi"}) {
      if (testing::no_partition_of(method, testing::tiny_config(family)).empty()) all.push_back({method, family});
    }
  }
  return all;
}

class DenseFormatTest : public ::testing::TestWithParam<Case> {
 protected:
  void convert(at::ScalarType dtype) {
    testing::write_dense_model(dense(), testing::tiny_config(GetParam().family), 11, dtype);
    testing::write_calibration(folder_ / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
    v1::ConvertSpec spec = testing::method_spec(GetParam().method, 4, 2);
    testing::give_needed_text(spec, folder_ / "ids.jsonl");
    spec.mutable_calibration()->set_tokens(300);
    testing::convert(spec, 7, dense(), converted());
  }
  std::filesystem::path dense() const { return folder_ / "dense"; }
  std::filesystem::path converted() const { return folder_ / "converted"; }
  std::filesystem::path back() const { return folder_ / "back"; }
  testing::TempDir folder_;
};
INSTANTIATE_TEST_SUITE_P(Methods, DenseFormatTest, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.method + "_" + test.param.family; });

TEST_P(DenseFormatTest, IsTheSourceBitForBit) {
  convert(at::kBFloat16);
  testing::export_to(converted(), back(), dense_spec());
  const ModelDirectory before(dense()), after(back());
  EXPECT_FALSE(after.config().moe);
  EXPECT_EQ(nlohmann::json::parse(read_file(back() / "config.json")),
            nlohmann::json::parse(read_file(dense() / "config.json")));
  int64_t tensors = 0;
  for (const TensorSpec& spec : logical_tensor_specs(before.config())) {
    EXPECT_EQ(after.tensor_type(spec.name), at::kBFloat16);
    EXPECT_TRUE(before.tensor(spec.name).equal(after.tensor(spec.name))) << spec.name;
    ++tensors;
  }
  std::cout << "tensors compared: " << tensors << "\n";
}

// Where it was converted travels with a trained model.
TEST_P(DenseFormatTest, ATrainedModelRemembersItsNeurons) {
  convert(at::kFloat);
  const ModelDirectory source(converted());
  Decoder decoder = load_decoder(source, at::kFloat, all_experts(source.config()));
  {
    const at::NoGradGuard no_grad;
    for (Parameter& parameter : decoder.parameters()) parameter.value.mul_(1.5);
  }
  write_model(folder_ / "trained", converted(), decoder, source.config(), at::kFloat, *make_self_communicator(), true);
  EXPECT_EQ(read_file(folder_ / "trained" / "conversion.json"), read_file(converted() / "conversion.json"));
  testing::export_to(folder_ / "trained", back(), dense_spec());
  const ModelDirectory before(dense()), after(back());
  for (const TensorSpec& spec : logical_tensor_specs(before.config())) {
    EXPECT_TRUE(after.tensor(spec.name).equal(before.tensor(spec.name) * 1.5)) << spec.name;
  }
}

class DenseFormatIndicesTest : public DenseFormatTest {};
INSTANTIATE_TEST_SUITE_P(Families, DenseFormatIndicesTest,
                         ::testing::Values(Case{"sequential", "llama"}, Case{"sequential", "phi"}),
                         [](const auto& test) { return test.param.family; });

TEST_P(DenseFormatIndicesTest, IndicesThatAreNoPartition) {
  convert(at::kFloat);
  const auto with_indices = [&](const at::Tensor& first) {
    const SafetensorsFile file(converted() / "conversion.safetensors");
    std::vector<SafetensorsWriter::Spec> specs;
    for (const SafetensorsEntry& entry : file.header().entries) specs.push_back({entry.name, at::kInt, entry.shape});
    SafetensorsWriter writer(folder_ / "changed", specs);
    for (const auto& spec : specs)
      writer.write(spec.name, spec.name.find("layers.0.") != std::string::npos ? first : file.tensor(spec.name));
    writer.finish();
    std::filesystem::rename(folder_ / "changed", converted() / "conversion.safetensors");
  };
  with_indices(at::zeros({4, 12}, at::kInt));
  EXPECT_THAT(refusal(converted(), dense_spec()),
              HasSubstr("the experts of layer 0 do not partition its FFN: 47 neurons are in none, 1 in several"));
  with_indices(at::full({4, 12}, 48, at::kInt));
  EXPECT_THAT(refusal(converted(), dense_spec()), HasSubstr("names neuron 48 of 48"));
  std::filesystem::remove(converted() / "conversion.safetensors");
  EXPECT_THAT(refusal(converted(), dense_spec()), HasSubstr("without conversion.safetensors"));
}

TEST(DenseFormatOfSharedTest, SharedExpertsAreNotKnown) {
  const testing::TempDir folder;
  testing::write_mixture(folder / "m", {.shared = {8, 8}});
  EXPECT_THAT(refusal(folder / "m", dense_spec()), HasSubstr("it has shared experts"));
}

/// Shared parts and experts of unequal widths, whose neurons the converter names.
TEST(DenseFormatOfSharedTest, SharedAndUnequalPartsAreTheSourceBitForBit) {
  for (const char* family : {"llama", "phi"}) {
    const testing::TempDir folder;
    testing::write_dense_model(folder / "dense", testing::tiny_config(family), 11, at::kBFloat16);
    testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
    v1::ConvertSpec spec = testing::convert_spec("shared_uneven", 4, 2, folder / "ids.jsonl");
    spec.mutable_calibration()->set_tokens(100);
    testing::convert_by_fixture(spec, 7, folder / "dense", folder / "converted", *make_self_communicator());
    testing::export_to(folder / "converted", folder / "back", dense_spec());
    const ModelDirectory before(folder / "dense"), after(folder / "back");
    for (const TensorSpec& tensor : logical_tensor_specs(before.config()))
      EXPECT_TRUE(before.tensor(tensor.name).equal(after.tensor(tensor.name))) << tensor.name;
  }
}

/// Of shared experts with a gate, trained or not: it is left out as the routers are.
TEST(DenseFormatOfSharedTest, GatesAreLeftOut) {
  const testing::TempDir folder;
  v1::ConvertSpec spec = conversion_in(folder, "residual", 4, 2);
  spec.mutable_ffn()->set_shared_experts(2);
  spec.mutable_ffn()->set_shared_gate("softmax");
  spec.mutable_ffn()->set_shared_gate_scale(2);
  testing::convert(spec, 7, folder / "dense", folder / "converted");
  const nlohmann::json report = testing::export_to(folder / "converted", folder / "back", dense_spec());
  EXPECT_THAT(report["notes"].dump(), HasSubstr("gates of shared experts are left out"));
  const ModelDirectory before(folder / "dense"), after(folder / "back");
  for (const TensorSpec& tensor : logical_tensor_specs(before.config()))
    EXPECT_TRUE(before.tensor(tensor.name).equal(after.tensor(tensor.name))) << tensor.name;
}

/// What one expert alone is: the converted model's logits, scale included, in a dense model as narrow as it.
TEST(DenseFormatOfOneExpertTest, IsANarrowerDenseModel) {
  for (const char* family : {"llama", "phi"}) {
    for (const char* method : {"pruned_random", "pruned_gradient"}) {
      const testing::TempDir folder;
      testing::write_dense_model(folder / "dense", testing::tiny_config(family), 11);
      testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
      v1::ConvertSpec spec = testing::convert_spec(method, 1, 1, folder / "ids.jsonl");
      spec.mutable_ffn()->set_expert_width(20);
      spec.mutable_calibration()->set_tokens(100);
      const nlohmann::json report = testing::convert(spec, 7, folder / "dense", folder / "converted");
      EXPECT_NE(report["layers"][0]["output_scale"], 1.0) << "a scale of one would not be seen";
      testing::export_to(folder / "converted", folder / "narrow", dense_spec());
      const ModelDirectory narrow(folder / "narrow");
      EXPECT_FALSE(narrow.config().moe);
      EXPECT_EQ(narrow.config().intermediate_size, 20);
      EXPECT_EQ(count_parameters(narrow.config()).total,
                count_parameters(ModelDirectory(folder / "converted").config()).total - 2 * 32)
          << "all but two routers";
      EXPECT_TRUE(testing::near(testing::logits_of_directory(folder / "narrow"),
                                testing::logits_of_directory(folder / "converted"), 1e-5));
    }
  }
}

/// Every router that gives its only expert the weight 1, and those that do not.
TEST(DenseFormatOfOneExpertTest, WhateverRouterWeighsItWithOne) {
  const testing::TempDir folder;
  for (const char* norm : {"renorm", "raw", "straight_through", "unit", "one_plus"}) {
    for (const char* score : {"softmax", "sigmoid"}) {
      SCOPED_TRACE(std::string(norm) + " " + score);
      const std::filesystem::path mixture = folder / (std::string(norm) + "-" + score),
                                  narrow = mixture.string() + "-n";
      testing::write_mixture(mixture,
                             {.experts = 1, .top_k = 1, .topk_norm = norm, .score = score, .scales = {2, 0.5}});
      const bool is_one =
          std::string(norm) != "one_plus" && !(std::string(norm) == "raw" && std::string(score) == "sigmoid");
      if (!is_one) {
        EXPECT_THAT(refusal(mixture, dense_spec()), HasSubstr("without conversion.safetensors"));
        continue;
      }
      testing::export_to(mixture, narrow, dense_spec());
      EXPECT_EQ(ModelDirectory(narrow).config().intermediate_size, 12);
      EXPECT_TRUE(testing::near(testing::logits_of_directory(narrow), testing::logits_of_directory(mixture), 1e-5));
    }
  }
}

TEST(DenseFormatOfOneExpertTest, OfSeveralOverlappingExpertsTheReasonIsSaid) {
  const testing::TempDir folder;
  v1::ConvertSpec spec = conversion_in(folder, "sharing_inner", 2, 1);
  spec.mutable_ffn()->set_expert_width(40);
  testing::convert(spec, 7, folder / "dense", folder / "converted");
  EXPECT_THAT(refusal(folder / "converted", dense_spec()), HasSubstr("do not partition its FFN"));
}

/// Layers that were never converted are what they were; the others are put together again.
TEST(DenseFormatOfMixedTest, SomeLayersAreTheSourceBitForBit) {
  for (const char* family : testing::kTinyKinds) {
    for (const char* layer : {"0", "1"}) {
      const testing::TempDir folder;
      testing::write_dense_model(folder / "dense", testing::tiny_config(family), 11, at::kBFloat16);
      v1::ConvertSpec spec = testing::convert_spec("independent_random", 4, 2);
      spec.mutable_ffn()->add_layers(layer);
      testing::convert(spec, 7, folder / "dense", folder / "converted");
      testing::export_to(folder / "converted", folder / "back", dense_spec());
      const ModelDirectory before(folder / "dense"), after(folder / "back");
      EXPECT_FALSE(after.config().moe);
      for (const TensorSpec& tensor : logical_tensor_specs(before.config()))
        EXPECT_TRUE(before.tensor(tensor.name).equal(after.tensor(tensor.name))) << family << " " << tensor.name;
    }
  }
}

/// The same to stock clients: exactly, narrower experts filled up with zeros.
TEST(DenseFormatOfSharedTest, SharedAndUnequalPartsHaveAStockForm) {
  const testing::TempDir folder;
  testing::write_dense_model(folder / "dense", testing::tiny_config(), 11);
  testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
  v1::ConvertSpec spec = testing::convert_spec("shared_uneven", 4, 2, folder / "ids.jsonl");
  spec.mutable_calibration()->set_tokens(100);
  spec.mutable_scale()->set_mode("unbiased");
  testing::convert_by_fixture(spec, 7, folder / "dense", folder / "converted", *make_self_communicator());
  const nlohmann::json report = testing::export_to(folder / "converted", folder / "stock");
  EXPECT_EQ(report["format"], "granitemoeshared");
  EXPECT_EQ(report["expert_values"], 2 * 3 * 32 * 36);
  EXPECT_EQ(report["stored_expert_values"], 2 * 3 * 32 * 4 * 15);
  EXPECT_TRUE(testing::near(testing::logits_of_directory(folder / "stock"),
                            testing::logits_of_directory(folder / "converted"), 1e-6));
}

}  // namespace
}  // namespace moe
