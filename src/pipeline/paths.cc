#include "pipeline/paths.h"

#include <google/protobuf/repeated_field.h>

namespace moe {
namespace {

using google::protobuf::RepeatedPtrField;
using Visit = std::function<void(std::string&)>;

void visit_path(std::string& path, const Visit& visit) {
  if (!path.empty()) visit(path);
}

void visit_sources(RepeatedPtrField<v1::DataSource>& sources, const Visit& visit) {
  for (v1::DataSource& source : sources) visit_path(*source.mutable_path(), visit);
}

class JobVisitor {
 public:
  JobVisitor(const v1::PipelineSpec& spec, const Visit& visit) : spec_(spec), visit_(visit) {}

  void convert(v1::ConvertSpec& convert) const {
    model(*convert.mutable_input());
    visit_sources(*convert.mutable_calibration(), visit_);
  }

  void train(v1::TrainSpec& train) const {
    model(*train.mutable_input());
    visit_sources(*train.mutable_data(), visit_);
    visit_sources(*train.mutable_validation(), visit_);
  }

  void evaluate(v1::EvaluateSpec& evaluate) const {
    model(*evaluate.mutable_input());
    if (evaluate.has_baseline()) model(*evaluate.mutable_baseline());
    visit_sources(*evaluate.mutable_data(), visit_);
  }

  /// A stage, or the top level of a file of kind Job: both have the same oneof.
  template <typename Holder>
  void job_of(Holder& holder) const {
    if (holder.has_convert()) convert(*holder.mutable_convert());
    if (holder.has_train()) train(*holder.mutable_train());
    if (holder.has_evaluate()) evaluate(*holder.mutable_evaluate());
    if (holder.has_export_()) model(*holder.mutable_export_()->mutable_input());
  }

 private:
  void model(std::string& reference) const {
    const bool is_folder = reference.find('/') != std::string::npos || reference == "." || reference == "..";
    if (is_folder && !spec_.inputs().contains(reference)) visit_path(reference, visit_);
  }

  const v1::PipelineSpec& spec_;
  const Visit& visit_;
};

}  // namespace

void visit_paths(v1::PipelineSpec& spec, const Visit& visit) {
  for (auto& [name, input] : *spec.mutable_inputs()) visit_path(*input.mutable_path(), visit);
  const JobVisitor visitor(spec, visit);
  for (v1::Stage& stage : *spec.mutable_stages()) visitor.job_of(stage);
  visitor.job_of(spec);
}

}  // namespace moe
