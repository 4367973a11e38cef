#include "worker/row_length_check.h"

#include <string>

#include "common/error.h"
#include "pipeline/inputs.h"
#include "runtime/model_settings.h"

namespace moe {

void check_row_length(const v1::Stage& stage, int64_t length, PipelineModels& models, const FieldChecks& checks) {
  for (const std::string& reference : model_references(stage)) {
    const OpenedModel* const model = models.at_beginning(reference);
    if (model == nullptr) continue;
    try {
      sequence_length_for(model->directory.config(), length);
    } catch (const InvalidArgument& error) {
      checks.add("sequence_length", concat(error.what(), " (", model->directory.path().string(), ")"));
      return;  // one of them is enough
    }
  }
}

}  // namespace moe
