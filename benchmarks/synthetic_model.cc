#include "synthetic_model.h"

#include <ATen/core/Tensor.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "model/parameters.h"

namespace moe::bench {

namespace fs = std::filesystem;

WorkFolder::WorkFolder() {
  const char* const base = std::getenv("MOE_BENCH_DIR");
  std::string pattern = ((base != nullptr ? fs::path(base) : fs::temp_directory_path()) / "moe-bench-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw StorageError("cannot create " + pattern);
  path_ = pattern;
}

WorkFolder::~WorkFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_synthetic_llama(const fs::path& path, const LlamaShape& shape) {
  const nlohmann::json json = {{"architectures", {"LlamaForCausalLM"}},
                               {"model_type", "llama"},
                               {"hidden_size", shape.hidden},
                               {"intermediate_size", shape.width},
                               {"num_hidden_layers", shape.layers},
                               {"num_attention_heads", shape.hidden / shape.head},
                               {"num_key_value_heads", shape.hidden / (4 * shape.head)},
                               {"vocab_size", shape.vocab},
                               {"max_position_embeddings", 2048},
                               {"rms_norm_eps", 1e-5},
                               {"tie_word_embeddings", false}};
  fs::create_directories(path);
  write_file_atomically(path / "config.json", json.dump());
  std::vector<SafetensorsWriter::Spec> specs;
  int64_t largest = 0;
  for (const TensorSpec& spec : logical_tensor_specs(parse_model_config(json.dump(), "benchmark"))) {
    specs.push_back({spec.name, at::kBFloat16, spec.shape});
    largest = std::max(largest, c10::multiply_integers(spec.shape));
  }
  const at::Tensor block = at::empty({largest}, at::kBFloat16);
  CounterRng rng(1, kStreamTest);
  auto* const words = static_cast<uint16_t*>(block.mutable_data_ptr());
  for (int64_t i = 0; i < largest; ++i) words[i] = static_cast<uint16_t>(0x3d00 | (rng.next_u32() & 0x80ff));
  SafetensorsWriter writer(path / "model.safetensors", specs);
  for (const auto& spec : specs)
    writer.write(spec.name, block.slice(0, 0, c10::multiply_integers(spec.shape)).view(spec.shape));
  writer.finish();
}

v1::ConvertSpec slicing(const std::string& method, int experts, int top_k, const std::string& router_init) {
  v1::ConvertSpec spec;
  spec.mutable_ffn()->set_method(method);
  spec.mutable_ffn()->set_experts(experts);
  spec.mutable_ffn()->set_top_k(top_k);
  spec.mutable_router()->set_init(router_init);
  spec.mutable_router()->set_scaling("calibrated");
  spec.mutable_scale()->set_mode("fixed");
  spec.mutable_scale()->set_value(4);
  spec.mutable_router()->set_topk_norm("renorm");
  spec.set_dtype("source");
  return spec;
}

void copy_and_sync(const fs::path& from, const fs::path& to) {
  const int in = open(from.c_str(), O_RDONLY);
  if (in < 0) throw InvalidArgument("cannot read " + from.string());
  AtomicFile out(to);
  std::vector<std::byte> piece(size_t{1} << 20);
  for (ssize_t count; (count = read(in, piece.data(), piece.size())) > 0;)
    out.write(std::span(piece.data(), static_cast<size_t>(count)));
  close(in);
  out.commit();
}

}  // namespace moe::bench
