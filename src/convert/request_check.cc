#include "convert/request_check.h"

#include <cmath>
#include <string>

#include "common/divisors.h"
#include "common/error.h"
#include "convert/conversion_methods.h"
#include "convert/output_scale.h"
#include "convert/router_init.h"
#include "model/moe/router.h"

namespace moe {
namespace {

void check_choice(const char* field, const std::string& value, std::initializer_list<const char*> choices) {
  std::string known;
  for (const char* choice : choices) {
    if (value == choice) return;
    known += (known.empty() ? "" : ", ") + std::string(choice);
  }
  throw InvalidArgument(concat("convert: ", field, " is '", value, "'; expected one of ", known));
}

void check_sizes(const ConvertRequest& request) {
  const ModelConfig& config = request.source.config();
  const v1::ConvertSpec& spec = request.spec;
  if (config.moe) {
    throw InvalidArgument(concat("convert: ", request.source.path().string(), " is a mixture of experts already (",
                                 config.moe->num_experts, " experts); give a dense model"));
  }
  if (spec.experts() < 1 || config.intermediate_size % spec.experts() != 0) {
    throw InvalidArgument(concat("convert: experts ", spec.experts(), " does not divide the FFN width ",
                                 config.intermediate_size, " of ", request.source.path().string(), "; use one of ",
                                 divisors_of(config.intermediate_size)));
  }
  if (spec.top_k() < 1 || spec.top_k() > spec.experts()) {
    throw InvalidArgument(
        concat("convert: top_k is ", spec.top_k(), " with experts ", spec.experts(), "; use 1 to ", spec.experts()));
  }
}

void check_calibration(const ConvertRequest& request) {
  const v1::ConvertSpec& spec = request.spec;
  const bool is_for_router = router_inits().at(spec.router_init()).needs_features;
  if (spec.calibration().empty() && (is_for_router || spec.scale_mode() == "least_squares")) {
    throw InvalidArgument(concat("convert: calibration is empty, and ",
                                 is_for_router ? "router_init " + spec.router_init() : "scale_mode least_squares",
                                 " needs text: list JSONL files"));
  }
  if (needs_calibration(spec) && spec.calibration_tokens() < 1) {
    throw InvalidArgument(
        concat("convert: calibration_tokens is ", spec.calibration_tokens(), "; use 1 or more (4096 is the default)"));
  }
}

}  // namespace

bool needs_calibration(const v1::ConvertSpec& spec) {
  return !spec.calibration().empty() || spec.scale_mode() == "least_squares" ||
         router_inits().at(spec.router_init()).needs_features;
}

void check_applies(const std::string& name, const ConversionMethod& method, const ModelConfig& config,
                   const std::string& where) {
  const std::string reason = method.refusal ? method.refusal(config) : "";
  if (!reason.empty()) {
    throw InvalidArgument(concat("convert: method ", name, " does not apply to ", where, ": ", reason, "; use one of ",
                                 conversion_methods().known()));
  }
}

void check_request(const ConvertRequest& request) {
  const v1::ConvertSpec& spec = request.spec;
  const ConversionMethod& method = conversion_methods().at(spec.method());
  router_inits().at(spec.router_init());
  parse_topk_norm(spec.topk_norm());
  check_choice("router_scaling", spec.router_scaling(), {"calibrated", "raw"});
  check_choice("dtype", spec.dtype(), {"source", "float32", "bfloat16"});
  check_sizes(request);
  check_applies(spec.method(), method, request.source.config(), request.source.path().string());
  if (spec.scale_mode() != "least_squares") {
    const double scale = closed_form_scale(spec.scale_mode(), spec.experts(), spec.top_k(), spec.output_scale());
    if (!std::isfinite(scale) || scale <= 0) {
      throw InvalidArgument(concat("convert: output_scale is ", scale, "; use a positive number"));
    }
  }
  check_calibration(request);
}

}  // namespace moe
