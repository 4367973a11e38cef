#include "convert/conversion.h"

#include <utility>

#include "checkpoint/dtypes.h"
#include "convert/request_check.h"

namespace moe {
namespace {

ModelConfig converted_config(const ConvertRequest& request, const std::string& source_digest) {
  ModelConfig config = request.source.config();
  const v1::ConvertSpec& spec = request.spec;
  MoeConfig moe;
  moe.base_model_type = config.model_type;
  moe.num_experts = spec.ffn().experts();
  moe.top_k = spec.ffn().top_k();
  moe.expert_widths.assign(config.num_layers, 0);
  moe.shared_widths.assign(config.num_layers, 0);
  moe.output_scale.assign(config.num_layers, 1);
  moe.score = router_score(spec);
  moe.topk_norm = spec.router().topk_norm();
  moe.conversion = {{"method", spec.ffn().method()},       {"seed", request.seed},
                    {"router_init", spec.router().init()}, {"router_scaling", spec.router().scaling()},
                    {"scale_mode", spec.scale().mode()},   {"source_digest", source_digest}};
  config.moe = moe;
  return config;
}

}  // namespace

Conversion::Conversion(const ConvertRequest& asked, std::map<std::string, std::string> model_digests)
    : request(asked),
      spec(asked.spec),
      digests(std::move(model_digests)),
      config(converted_config(asked, digests.at(asked.source.path().string()))),
      method(asked.methods.at(spec.ffn().method())),
      options(method.options, spec),
      source(asked.source),
      is_mixture(mixtures_of(spec.ffn(), config)),
      dtype_(spec.dtype() == "source" ? std::nullopt : scalar_type_of(spec.dtype() == "float32" ? "F32" : "BF16")) {
  for (const ModelDirectory* const other : asked.others) others.emplace_back(*other);
}

std::string Conversion::source_of(const TensorId& id) const {
  TensorId source_id = id;
  source_id.expert = kNoExpert;
  if (id.part == TensorPart::kRouter || id.part == TensorPart::kRouterGain) source_id.part = TensorPart::kUp;
  if (id.part == TensorPart::kOutputBias) source_id.part = TensorPart::kDown;
  return tensor_name(source.config(), source_id);
}

at::ScalarType Conversion::out_type(const std::string& source_tensor) const {
  return dtype_ ? *dtype_ : request.source.tensor_type(source_tensor);
}

}  // namespace moe
