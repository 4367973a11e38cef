#include "eval/held_out.h"

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "comm/agreement.h"
#include "runtime/model_settings.h"

namespace moe {

HeldOutData read_held_out(const LoadedModel& model, const HeldOutText& text, WorkMonitor& monitor, Communicator& world,
                          const std::string& op) {
  const ModelConfig& config = model.config();
  std::optional<HeldOutData> data;
  std::map<std::string, std::string> files;
  agree(world, "read text " + op, [&] {
    HeldOutOptions options;
    options.packing.sequence_length = sequence_length_for(config, text.sequence_length);
    options.packing.append_eos = text.append_eos;
    options.packing.chat_template = model.text.chat_template;
    options.packing.vocab_size = config.vocab_size;
    options.max_tokens = text.max_tokens;
    data.emplace(text.files, model.text.tokenizer, options);
    files = data->file_digests();
  });
  require_same_files(world, op, files);
  monitor.data_read(files);
  return *std::move(data);
}

}  // namespace moe
