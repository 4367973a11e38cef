#include "convert/calibration_pass.h"

#include <utility>

#include "convert/importance.h"
#include "convert/router_init.h"
#include "convert/stored_importance.h"
#include "model/norm.h"
#include "model/rope.h"

namespace moe {

CalibrationPass::CalibrationPass(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                 const ModelText& reading, const MethodNeeds& needs, Communicator& world,
                                 CalibrationStore store)
    : spec_(spec),
      seed_(seed),
      config_(config),
      needs_(needs),
      store_(std::move(store)),
      text_(read_calibration_text(spec, seed, config, reading, world, store_)),
      rope_(RopeTable(config, at::kFloat).angles(text_.cu_seqlens)) {
  features_.ffn_inputs.first = text_.first_token;
  features_.ffn_inputs.total = text_.total_tokens;
  features_.attention_inputs = features_.ffn_inputs;
  features_.cu_seqlens = text_.cu_seqlens;
}

void CalibrationPass::measure_importance(const DenseSource& model, const std::string& model_digest,
                                         const ConversionMethod& method, const MethodOptions& options,
                                         const std::function<void(int64_t)>& progress, Communicator& world) {
  const ImportanceMeasure measure = ImportanceMeasure::of(options);
  // Groups that have no name are of this conversion alone.
  const bool is_shared = !method.group_tokens || method.groups_name;
  const ImportanceKey key{
      .calibration = text_.digest,
      .model = model_digest,
      .groups = (method.groups_name ? method.groups_name(spec_.ffn(), options) + clustering_name(spec_) : "all") +
                measure.name()};
  if (is_shared) {
    if (std::optional<std::vector<Importance>> kept = kept_importance(store_, key, config_.num_layers, world)) {
      importance_ = *std::move(kept);
      for (int64_t layer = 1; layer <= config_.num_layers; ++layer) progress(layer);
      return;
    }
  }
  importance_ = moe::measure_importance(model, text_,
                                        {.spec = spec_,
                                         .seed = seed_,
                                         .options = options,
                                         .group_tokens = method.group_tokens,
                                         .measure = measure,
                                         .progress = progress},
                                        world);
  if (is_shared) keep_importance(store_, key, importance_, world);
}

std::optional<Importance> CalibrationPass::take_importance(int64_t layer) {
  if (importance_.empty()) return std::nullopt;
  return std::exchange(importance_.at(layer), {});
}

void CalibrationPass::embed(const at::Tensor& dense_VD, const at::Tensor& converted_VD) {
  const auto rows_of = [this](const at::Tensor& embedding_VD) {
    return embedding_VD.index_select(0, text_.tokens_T).to(at::kFloat);
  };
  dense_TD_ = rows_of(dense_VD);
  features_.converted_hidden_TD = converted_VD.defined() ? rows_of(converted_VD) : dense_TD_;
}

void CalibrationPass::enter(const Layer& layer) {
  const bool is_same = dense_TD_.is_same(features_.converted_hidden_TD);
  features_.hidden_TD = dense_TD_;
  features_.attention_inputs.local_TD = normalize(config_, layer.input_norm, dense_TD_);
  features_.converted_attention_inputs_TD = is_same
                                                ? features_.attention_inputs.local_TD
                                                : normalize(config_, layer.input_norm, features_.converted_hidden_TD);
}

AttendedLayer CalibrationPass::attended(const Layer& layer, const at::Tensor& attention_TD) const {
  const at::Tensor x = features_.converted_hidden_TD + attention_TD;
  return {x, config_.is_parallel ? features_.converted_attention_inputs_TD : normalize(config_, layer.post_norm, x)};
}

void CalibrationPass::attend(const Layer& layer) {
  LayerContext observed = context();
  observed.options.observer = [this](int64_t /*layer*/, LayerPoint point, const at::Tensor& values) {
    if (point == LayerPoint::kAttended) features_.hidden_TD = values;
    if (point == LayerPoint::kFfnInput) features_.ffn_inputs.local_TD = values;
    if (point == LayerPoint::kFfnActivations && needs_.activations) features_.activations_TF = values;
  };
  are_streams_one_ = dense_TD_.is_same(features_.converted_hidden_TD);
  dense_TD_ = run_layer(layer, dense_TD_, observed).x_TD;
}

void CalibrationPass::attend_converted(const Layer& layer, const at::Tensor& attention_TD, bool is_another) {
  const AttendedLayer converted = attention_TD.defined() ? attended(layer, attention_TD)
                                  : are_streams_one_ && !is_another
                                      ? AttendedLayer{features_.hidden_TD, features_.ffn_inputs.local_TD}
                                      : attend_layer(layer, features_.converted_hidden_TD, context());
  features_.attention_inputs.local_TD = features_.converted_attention_inputs_TD = at::Tensor();
  features_.converted_hidden_TD = converted.x_TD;
  features_.converted_ffn_inputs_TD = converted.ffn_input_TD;
}

void CalibrationPass::advance(const at::Tensor& converted_output_TD) {
  features_.converted_hidden_TD = features_.converted_hidden_TD + converted_output_TD;
  features_.activations_TF = at::Tensor();
}

void CalibrationPass::end() {
  dense_TD_ = at::Tensor();
  features_ = LayerFeatures();
  importance_.clear();
}

void CalibrationPass::advance_unchanged(const Layer& layer) {
  if (features_.converted_hidden_TD.is_same(features_.hidden_TD)) {
    // Nothing was converted so far: the streams are one, and stay so.
    features_.converted_hidden_TD = dense_TD_;
    features_.activations_TF = at::Tensor();
  } else {
    advance(feed_forward(std::get<FeedForwardWeights>(layer.ffn), features_.converted_ffn_inputs_TD));
  }
}

}  // namespace moe
