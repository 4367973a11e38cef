#include "pipeline/metrics.h"

#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"

namespace moe {

std::vector<std::string> metrics_of(const v1::Stage& stage) {
  const JobKind* kind = kind_of(stage);
  return kind == nullptr ? std::vector<std::string>() : kind->metrics(stage);
}

void add_by_domain(const std::string& metric, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
                   std::vector<std::string>& names) {
  for (const v1::DataSource& source : sources) names.push_back(metric + "." + domain_of(source));
}

}  // namespace moe
