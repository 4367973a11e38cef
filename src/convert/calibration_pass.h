#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/calibration_store.h"
#include "convert/calibration_text.h"
#include "convert/conversion_method.h"
#include "convert/dense_source.h"
#include "convert/layer_inputs.h"
#include "model/layer.h"

namespace moe {

/// THE provider of what calibration text tells a method (MethodNeeds), a router and a scale. Importance comes first,
/// for all layers (convert/importance.h). Then the text goes through the layers, as hidden states of the dense model (a
/// method's and a router's features come from these) and of the model converted so far, on which output scales are
/// fitted: a layer sees what the layers before it will really give it. Measured as held-out loss after conversion, mean
/// of 4 seeds, a scale fitted on the converted stream against one fitted on the dense stream: base-7m (8 experts,
/// top-2) 7.716 against 8.059, stories260k (4, top-2) 4.726 against 4.723; a fit of the converted stream's output to
/// the dense stream's is better on the one (7.537) and much worse on the other (5.384).
class CalibrationPass {
 public:
  /// Reads the text, or takes it from the store. Collective.
  CalibrationPass(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config, const ModelText& reading,
                  const MethodNeeds& needs, Communicator& world, CalibrationStore store = CalibrationStore({}));

  const CalibrationText& text() const { return text_; }

  /// For methods that need gradients: once, before the layers. Takes what an earlier conversion of the same model (of
  /// this digest) kept of the same text for the same groups; else goes through the model and keeps it. Collective.
  void measure_importance(const DenseSource& model, const std::string& model_digest, const ConversionMethod& method,
                          const MethodOptions& options, const std::function<void(int64_t layers_done)>& progress,
                          Communicator& world);
  /// Of a layer, once: it is not kept. Nothing where it was not measured.
  std::optional<Importance> take_importance(int64_t layer);

  /// Both streams begin; `converted_VD` where the converted model has another embedding.
  void embed(const at::Tensor& dense_VD, const at::Tensor& converted_VD = {});
  /// Before attend(), of a layer whose attention becomes experts: features() have what that reads.
  void enter(const Layer& layer);
  /// The dense stream through a dense layer in float; afterwards its features() are those of this layer.
  void attend(const Layer& layer);
  /// Then the converted stream through the layer's attention, which `is_another` than attend() saw where the conversion
  /// changes it, or with what the experts that attention became give, where that is given.
  void attend_converted(const Layer& layer, const at::Tensor& attention_TD = {}, bool is_another = false);
  /// In which layers see the text: lives as long as this.
  LayerContext context() { return {config_, rope_, text_.cu_seqlens, dispatcher_}; }
  const LayerFeatures& features() const { return features_; }
  /// Ends the layer: adds the converted stream's FFN output.
  void advance(const at::Tensor& converted_output_TD);
  /// Ends a layer that stays as it is.
  void advance_unchanged(const Layer& layer);
  /// After the last layer: nothing but the text needs to stay.
  void end();

 private:
  /// The converted stream with this added by its attention.
  AttendedLayer attended(const Layer& layer, const at::Tensor& attention_TD) const;

  const v1::ConvertSpec& spec_;
  uint64_t seed_;
  const ModelConfig& config_;
  MethodNeeds needs_;
  CalibrationStore store_;
  CalibrationText text_;
  RopeAngles rope_;
  LocalDispatcher dispatcher_;
  at::Tensor dense_TD_;           ///< the dense stream after the layer
  bool are_streams_one_ = false;  ///< before the layer: nothing was converted so far
  LayerFeatures features_;
  std::vector<Importance> importance_;  ///< of the layers that are still to be planned
};

}  // namespace moe
