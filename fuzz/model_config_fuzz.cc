// config.json: parsed, written back, and the names and shapes of its tensors listed where the model is small.

#include "fuzz_target.h"
#include "model/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A tree of JSON, kept for writing back; and a value per layer of up to 4096 layers.
  constexpr moe::fuzz::MemoryBound kBound{100, size_t{2} << 20};
  moe::fuzz::check(data, size, kBound, kBound, [](std::string_view bytes) {
    moe::to_json(moe::parse_model_config(std::string(bytes), moe::fuzz::kWhere)).dump();
  });
  return 0;
}
