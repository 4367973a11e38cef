#pragma once

#include <cstdint>
#include <vector>

#include "common/work_monitor.h"
#include "eval/perplexity.h"
#include "runtime/loaded_model.h"

namespace moe {

/// What a job says of the text that it looks at with a model (EvaluateSpec and AnalyzeSpec have the same fields).
struct HeldOutText {
  std::vector<DataFile> files;
  int64_t sequence_length = 0;  ///< 0: the model's
  int64_t max_tokens = 0;       ///< per file; 0: all
  bool append_eos = true;
};

template <typename Spec>
HeldOutText held_out_text(const Spec& spec) {
  return {data_files(spec.data()), spec.sequence_length(), spec.max_tokens(), spec.append_eos()};
}

/// The text as rows of the model. Collective; throws agreed errors, StorageError if the ranks read unlike files, and
/// what the monitor does, who is told of the files. `op` says what for: "before the evaluation".
HeldOutData read_held_out(const LoadedModel& model, const HeldOutText& text, WorkMonitor& monitor, Communicator& world,
                          const std::string& op);

}  // namespace moe
