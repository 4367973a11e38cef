#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "convert/conversion_method.h"
#include "convert/converter.h"
#include "model/moe/router.h"
#include "model/moe/shared_gate.h"

namespace moe {

/// One thing of which a conversion is asked and that cannot be.
struct RequestProblem {
  std::string field;    ///< of the conversion's message, "ffn.experts": where the value stands; the message names it
  std::string message;  ///< with the value and what it may be
};

/// A check and the field that it judges. Throws InvalidArgument.
struct RequestCheck {
  const char* field;
  void (*check)(const ConvertRequest& request);
};

/// All that a spec and the configs of its models tell, each once, before any weight is read. Of the request, what
/// decides nothing of this (output, monitor, calibrations, layers' training) is not looked at.
std::vector<RequestProblem> request_problems(const ConvertRequest& request);

/// Refuses a conversion that cannot be done, before anything is read or written. Throws InvalidArgument with all
/// problems, each on its own line.
void check_request(const ConvertRequest& request);

/// Refuses a model that has experts already, of FFNs or of attention. `section`: of the spec that names it,
/// "ffn.others:
/// ", or "" for the input. Throws InvalidArgument.
void check_is_dense(const ModelDirectory& model, const std::string& section);

/// Throws InvalidArgument, with the choices, where the value of a field is none of them.
void check_choice(const char* field, const std::string& value, std::initializer_list<const char*> choices);

/// Refuses a method that cannot convert the FFNs of this model. `where` is the model's path. Throws InvalidArgument
/// with the reason.
void check_applies(const std::string& name, const ConversionMethod& method, const ModelConfig& config,
                   const std::string& where);

/// [layers]: which layers' FFNs become mixtures, as ffn.layers says; none without ffn. Throws InvalidArgument with the
/// item that is wrong.
std::vector<bool> mixtures_of(const v1::ConvertSpec& spec, const ModelConfig& config);

/// Whether a conversion runs the calibration text through the layers: where method, grouping, router or scale ask, and
/// wherever text is given, for the report.
bool needs_calibration(const ConversionMethod& method, const v1::ConvertSpec& spec);

/// The score; softmax where the spec is of a version that knew no other.
std::string router_score(const v1::RouterSpec& router);
/// router.gate; linear likewise.
RouterGate router_gate(const v1::RouterSpec& router);

/// The gate of ffn.shared_gate; none likewise.
SharedGateOptions shared_gate_of(const v1::FfnExpertsSpec& ffn);

/// scale.alignment of a conversion; none where the spec is of a version that knew no other.
std::string alignment_of(const v1::ConvertSpec& spec);

}  // namespace moe
