#include "pipeline/defaults.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include "common/error.h"
#include "pipeline/kinds/kinds.h"

namespace moe {

std::string domain_of(const v1::DataSource& source) {
  if (source.has_domain()) return source.domain();
  const std::string name = source.path().substr(source.path().rfind('/') + 1);
  return name.substr(0, name.find('.', 1));
}

void fill_sources(google::protobuf::RepeatedPtrField<v1::DataSource>& sources) {
  for (v1::DataSource& source : sources) {
    if (!source.has_weight()) source.set_weight(1);
    source.set_domain(domain_of(source));
    if (!source.has_max_documents()) source.set_max_documents(0);
    if (!source.has_special_tokens()) source.set_special_tokens("text");
  }
}

v1::GangSpec with_defaults(const v1::GangSpec& gang, const v1::GangSpec& inherited) {
  v1::GangSpec filled;
  filled.set_ranks(0);
  filled.set_device("cpu");
  filled.set_expert_parallel(0);
  filled.set_dtype("float32");
  filled.MergeFrom(inherited);
  filled.MergeFrom(gang);
  return filled;
}

v1::PipelineSpec effective_spec(const v1::PipelineSpec& spec) {
  v1::PipelineSpec filled = spec;
  v1::Defaults& defaults = *filled.mutable_defaults();
  if (!defaults.has_seed()) defaults.set_seed(0);
  *defaults.mutable_gang() = with_defaults(defaults.gang(), {});
  for (v1::Stage& stage : *filled.mutable_stages()) {
    if (stage.has_gate() && !stage.gate().has_on_fail()) stage.mutable_gate()->set_on_fail("HOLD");
    const JobKind* kind = kind_of(stage);
    if (kind == nullptr) continue;  // a gate, or a stage that says nothing
    kind->fill(stage);
    if (!stage.has_seed()) stage.set_seed(defaults.seed());
    *stage.mutable_gang() = with_defaults(stage.gang(), defaults.gang());
  }
  return filled;
}

std::string to_json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  MOE_CHECK(status.ok(), status.ToString());
  return text;
}

}  // namespace moe
