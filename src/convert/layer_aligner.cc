#include "convert/layer_aligner.h"

#include <map>
#include <variant>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/layer_tensors.h"
#include "convert/request_check.h"
#include "model/attention_experts.h"
#include "model/layer_weights.h"

namespace moe {
namespace {

/// The pass enters the layer, and what the converted one's FFN gives there; undefined where that stays dense.
at::Tensor run_converted(const Conversion& conversion, CalibrationPass& pass, const Layer& dense) {
  const int64_t layer = dense.index;
  const bool is_mixture = conversion.is_mixture[layer],
             has_attention_experts = conversion.config.has_attention_experts(layer);
  Layer converted;
  if (is_mixture || has_attention_experts) {
    std::map<TensorId, at::Tensor> by_id;
    for (const Parameter& parameter : layer_parameters(conversion, layer, /*mixture_alone=*/false))
      by_id[parameter.id] = parameter.value;
    converted = layer_weights(conversion.config, layer, [&by_id](const TensorId& id) { return by_id.at(id); });
  }
  at::Tensor attention_TD;
  if (has_attention_experts) {
    pass.enter(dense);
    attention_TD = attention_experts(std::get<MoeAttention>(converted.attention), layer,
                                     pass.features().converted_attention_inputs_TD, pass.context())
                       .y_TD;
  }
  pass.attend(dense);
  const bool is_another = is_mixture && !conversion.layers[layer].planned->plan().others.empty();
  pass.attend_converted(is_another ? converted : dense, attention_TD, is_another);
  if (!is_mixture) return {};
  const auto& mixture = std::get<MoeFeedForward>(converted.ffn);
  LocalDispatcher dispatcher;
  return moe_layer(mixture.weights, mixture.options, pass.features().converted_ffn_inputs_TD, dispatcher, layer).y_TD;
}

}  // namespace

ChannelAlignment align_layer(const Conversion& conversion, const CalibrationPass& pass, const FeedForwardWeights& dense,
                             const at::Tensor& output_TD, Communicator& world) {
  const TextRows& rows = pass.text();
  const at::Tensor dense_TD = feed_forward(dense, pass.features().ffn_inputs.local_TD);
  return alignment_to(channel_statistics(dense_TD, rows, world), channel_statistics(output_TD, rows, world),
                      dense.down_bias, alignment_of(conversion.spec));
}

void align_reconstructed(Conversion& conversion, CalibrationPass& pass, Communicator& world,
                         const std::function<void()>& layer_done) {
  agree(world, "embed the text again", [&] {
    pass.embed(conversion.source.embedding(), conversion.made_embedding());
    conversion.release_ends();
  });
  for (int64_t layer = 0; layer < conversion.config.num_layers; ++layer, layer_done()) {
    if (!conversion.is_before_experts(layer)) continue;
    Layer dense;
    at::Tensor output_TD;
    agree(world, concat("run reconstructed layer ", layer), [&] {
      dense = conversion.source.layer(layer);
      output_TD = run_converted(conversion, pass, dense);
      conversion.release_layer(layer);
      if (!output_TD.defined()) pass.advance_unchanged(dense);
    });
    if (output_TD.defined()) {
      const auto& ffn = std::get<FeedForwardWeights>(dense.ffn);
      const ChannelAlignment alignment = align_layer(conversion, pass, ffn, output_TD, world);
      pass.advance(alignment.align(output_TD, ffn.down_bias));
      conversion.layers[layer].report["alignment"] = alignment.describe();
      conversion.layers[layer].alignment = alignment;
    }
  }
}

}  // namespace moe
