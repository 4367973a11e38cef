#include "convert/conversion.h"

#include <algorithm>
#include <utility>

#include "checkpoint/dtypes.h"
#include "checkpoint/tensor_assembly.h"
#include "convert/attention_request.h"
#include "convert/request_check.h"

namespace moe {
namespace {

ModelConfig converted_config(const ConvertRequest& request, const std::string& source_digest) {
  ModelConfig config = request.source.config();
  const v1::ConvertSpec& spec = request.spec;
  MoeConfig moe;
  moe.base_model_type = config.model_type;
  moe.expert_widths.assign(config.num_layers, 0);
  moe.shared_widths.assign(config.num_layers, 0);
  moe.output_scale.assign(config.num_layers, 1);
  moe.conversion = {{"seed", request.seed}, {"source_digest", source_digest}};
  if (spec.has_ffn()) {
    moe.num_experts = spec.ffn().experts();
    moe.top_k = spec.ffn().top_k();
    moe.score = router_score(spec.router());
    moe.topk_norm = spec.router().topk_norm();
    if (spec.router().has_gate()) moe.router = spec.router().gate();
    if (spec.router().has_noise()) moe.router_noise = spec.router().noise();
    if (const SharedGateOptions gate = shared_gate_of(spec.ffn()); gate.gate != SharedGate::kNone) {
      moe.shared_gate = spec.ffn().shared_gate();
      moe.shared_gate_rows = gate.gate == SharedGate::kSoftmax ? spec.ffn().shared_experts() : 1;
      moe.shared_gate_scale = gate.scale;
    }
    moe.conversion.update({{"method", spec.ffn().method()},
                           {"router_init", spec.router().init()},
                           {"router_scaling", spec.router().scaling()},
                           {"scale_mode", spec.scale().mode()}});
  }
  if (const std::string alignment = alignment_of(spec); alignment != "none") {
    moe.conversion["alignment"] = alignment;
    moe.has_output_bias = alignment == "mean_variance" && !config.mlp_bias;
  }
  if (spec.has_reconstruction()) {
    const v1::ReconstructionSpec& reconstruction = spec.reconstruction();
    moe.conversion["reconstruction"] = {{"steps", reconstruction.steps()},
                                        {"learning_rate", reconstruction.learning_rate()},
                                        {"batch_tokens", reconstruction.batch_tokens()},
                                        {"parameters", reconstruction.parameters()}};
  }
  if (spec.has_attention()) {
    const v1::AttentionExpertsSpec& attention = spec.attention();
    moe.attention = attention_experts_of(attention, config);
    moe.conversion["attention"] = {{"grouping", attention.grouping()},
                                   {"router_init", attention.router().init()},
                                   {"router_scaling", attention.router().scaling()},
                                   {"scale_mode", attention.scale().mode()}};
  }
  config.moe = moe;
  return config;
}

}  // namespace

const ConversionMethod& method_of(const ConvertRequest& request) {
  static const ConversionMethod none{
      .summary = "FFNs stay dense", .plan = {}, .widths = [](const auto&, const auto&) { return LayerWidths(); }};
  return request.spec.has_ffn() ? request.methods.at(request.spec.ffn().method()) : none;
}

Conversion::Conversion(const ConvertRequest& asked, std::map<std::string, std::string> model_digests)
    : request(asked),
      spec(asked.spec),
      digests(std::move(model_digests)),
      config(converted_config(asked, digests.at(asked.source.path().string()))),
      method(method_of(asked)),
      options(method.options, spec),
      source(asked.source),
      is_mixture(mixtures_of(spec, config)),
      dtype_(spec.dtype() == "source" ? std::nullopt : scalar_type_of(spec.dtype() == "float32" ? "F32" : "BF16")) {
  for (const ModelDirectory* const other : asked.others) others.emplace_back(*other);
  if (!method.ends) return;
  for (PiecedTensor& tensor : method.ends(source.config(), spec, options)) ends.emplace(tensor.name, std::move(tensor));
}

at::Tensor Conversion::end(const std::string& name, at::ScalarType type) const {
  const auto made = ends.find(name);
  if (made == ends.end()) return request.source.tensor(name).to(type);
  const auto get = [this](const TensorPiece& piece) {
    const ModelDirectory& model = piece.model == 0 ? request.source : others.at(piece.model - 1).directory();
    return model.tensor(piece.source).contiguous();
  };
  return TensorAssembly("convert", {get}, TensorAssembly::Rounding::kNotMeasured).assemble(made->second, type);
}

at::Tensor Conversion::made_embedding() const {
  const std::string name = tensor_name(source.config(), {TensorPart::kEmbedding});
  return ends.contains(name) ? end(name, at::kFloat) : at::Tensor();
}

void Conversion::release_end(const std::string& name) const {
  request.source.release(name);
  for (const DenseSource& other : others) other.directory().release(name);
}

void Conversion::release_ends() const {
  source.release_ends();
  for (const DenseSource& other : others) other.release_ends();
}

void Conversion::release_layer(int64_t layer) const {
  source.release_layer(layer);
  for (const DenseSource& other : others) other.release_layer(layer);
}

int64_t Conversion::ffn_place(int64_t layer) const {
  return std::count(is_mixture.begin(), is_mixture.begin() + layer, true);
}

int64_t Conversion::attention_place(int64_t layer) const {
  int64_t place = 0;
  for (int64_t before = 0; before < layer; ++before) place += config.has_attention_experts(before) ? 1 : 0;
  return place;
}

bool Conversion::is_before_experts(int64_t layer) const {
  for (; layer < config.num_layers; ++layer) {
    if (is_mixture[layer] || config.has_attention_experts(layer)) return true;
  }
  return false;
}

std::string Conversion::source_of(const TensorId& id) const {
  TensorId source_id = id;
  source_id.expert = kNoExpert;
  if (is_of_router(id.part)) source_id.part = id.routes_attention ? TensorPart::kQuery : TensorPart::kUp;
  if (id.part == TensorPart::kOutputBias)
    source_id = {TensorPart::kDown, id.layer, kNoExpert, /*is_bias=*/source.config().mlp_bias};
  return tensor_name(source.config(), source_id);
}

bool Conversion::changes_neurons() const {
  const bool trains_experts = spec.has_reconstruction() && spec.reconstruction().parameters() != "router";
  return alignment_of(spec) != "none" || trains_experts;
}

at::ScalarType Conversion::out_type(const std::string& source_tensor) const {
  return dtype_ ? *dtype_ : request.source.tensor_type(source_tensor);
}

}  // namespace moe
