// What the calibration pass feeds into a layer's FFN is what the model itself would.
#include "convert/calibration_pass.h"

#include <gtest/gtest.h>

#include <map>

#include "convert/conversion_fixture.h"
#include "model/layer_weights.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

std::map<std::string, at::Tensor> by_name(const Decoder& decoder) {
  std::map<std::string, at::Tensor> map;
  for (const Parameter& parameter : decoder.parameters()) map[parameter.name] = parameter.value;
  return map;
}

class CalibrationPassTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, CalibrationPassTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

// The second layer's attention adds nothing, so that its FFN reads the norm of what the first layer left; a model of
// one layer with that norm at its end gives the same.
TEST_P(CalibrationPassTest, SecondLayersFfnInputIsTheFirstLayersOutputNormalised) {
  const at::NoGradGuard no_grad;
  const ModelConfig config = testing::tiny_config(GetParam());
  Decoder model(config, at::kFloat, {});
  testing::fill_random(model, 5);
  const auto tensors = by_name(model);
  const std::string attention_out =
      concat("model.layers.1.", config.is_parallel ? "self_attn.dense" : "self_attn.o_proj");
  for (const char* part : {".weight", ".bias"}) {
    if (tensors.contains(attention_out + part)) tensors.at(attention_out + part).zero_();
  }
  ModelConfig one_layer = config;
  one_layer.num_layers = 1;
  Decoder first(one_layer, at::kFloat, {});
  const std::string end = config.is_parallel ? "model.final_layernorm" : "model.norm";
  const std::string norm =
      config.is_parallel ? "model.layers.1.input_layernorm" : "model.layers.1.post_attention_layernorm";
  for (const auto& [name, value] : by_name(first)) {
    const bool is_end = name.starts_with(end + ".");
    value.copy_(tensors.at(is_end ? norm + name.substr(end.size()) : name));
  }

  const v1::ConvertSpec spec = testing::convert_spec("sequential", 4, 2, ids());
  const auto world = make_self_communicator();
  CalibrationPass pass(spec, 3, config, {}, {.activations = true}, *world);
  pass.embed(tensors.at("model.embed_tokens.weight"));
  const TensorSource get = [&](const TensorId& id) { return tensors.at(tensor_name(config, id)); };
  const Layer layers[] = {layer_weights(config, 0, get), layer_weights(config, 1, get)};
  pass.attend(layers[0]);
  pass.attend_converted(layers[0]);
  pass.advance(feed_forward(std::get<FeedForwardWeights>(layers[0].ffn), pass.features().converted_ffn_inputs_TD));
  pass.attend(layers[1]);
  pass.attend_converted(layers[1]);

  const PackedBatch batch = testing::calibration_rows(config, ids(), 3, spec.calibration().tokens());
  LocalDispatcher dispatcher;
  const at::Tensor expected = first.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher).hidden_TD;
  EXPECT_GE(expected.size(0), 1024);
  EXPECT_TRUE(testing::near(pass.features().ffn_inputs.local_TD, expected, 1e-6));
  EXPECT_TRUE(testing::near(pass.features().converted_ffn_inputs_TD, expected, 1e-6))
      << "the converted stream, given the dense output, is the dense one";
  EXPECT_EQ(pass.features().cu_seqlens, batch.cu_seqlens);
  EXPECT_EQ(pass.features().document_id(1), batch.cu_seqlens[1]);
  EXPECT_TRUE(testing::near(
      pass.features().activations_TF,
      neuron_activations(std::get<FeedForwardWeights>(layers[1].ffn), pass.features().ffn_inputs.local_TD), 1e-6));
}

}  // namespace
}  // namespace moe
