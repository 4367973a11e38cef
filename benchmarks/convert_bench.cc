// A conversion that only slices (independent_random, fixed scale, Kaiming router) against copying the same bytes to a new file and
// syncing it. Both read a file that the system has cached and write a new one.
//
//   moe_convert_bench [--threads N] [--seconds S] [--filter TEXT]      MOE_BENCH_DIR: folder to work in (default: the temporary one)

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "bench.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "convert/converter.h"
#include "model/parameters.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// A folder that goes when the benchmark ends.
class WorkFolder {
 public:
  WorkFolder() {
    const char* const base = std::getenv("MOE_BENCH_DIR");
    std::string pattern = ((base != nullptr ? fs::path(base) : fs::temp_directory_path()) / "moe-convert-bench-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw StorageError("cannot create " + pattern);
    path_ = pattern;
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

struct Shape {
  std::string name;
  int64_t layers, hidden, width, vocab;
};

/// A bf16 model of random bits (exponents around 2^-5); one block of them is written again and again.
void write_model(const fs::path& path, const Shape& shape) {
  const nlohmann::json json = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"},
                               {"hidden_size", shape.hidden},           {"intermediate_size", shape.width},
                               {"num_hidden_layers", shape.layers},     {"num_attention_heads", shape.hidden / 64},
                               {"num_key_value_heads", shape.hidden / 256}, {"vocab_size", shape.vocab},
                               {"max_position_embeddings", 2048},       {"rms_norm_eps", 1e-5},
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
  for (const auto& spec : specs) writer.write(spec.name, block.slice(0, 0, c10::multiply_integers(spec.shape)).view(spec.shape));
  writer.finish();
}

/// The peer: read and write by the megabyte, sync.
void copy_and_sync(const fs::path& from, const fs::path& to) {
  const int in = open(from.c_str(), O_RDONLY);
  AtomicFile out(to);
  std::vector<std::byte> piece(size_t{1} << 20);
  for (ssize_t count; (count = read(in, piece.data(), piece.size())) > 0;) out.write(std::span(piece.data(), static_cast<size_t>(count)));
  close(in);
  out.commit();
}

v1::ConvertSpec slicing() {
  v1::ConvertSpec spec;
  spec.set_method("independent_random");
  spec.set_experts(8);
  spec.set_top_k(2);
  spec.set_router_init("kaiming");
  spec.set_router_scaling("calibrated");
  spec.set_scale_mode("fixed");
  spec.set_output_scale(4);
  spec.set_topk_norm("renorm");
  spec.set_dtype("source");
  return spec;
}

/// Values of the converted FFNs that differ from the source's, put back in order.
double wrong_values(const fs::path& source_path, const fs::path& converted_path) {
  const ModelDirectory source(source_path), converted(converted_path);
  const SafetensorsFile indices(converted_path / "conversion.safetensors");
  int64_t wrong = 0;
  for (const int64_t layer : {int64_t{0}, source.config().num_layers - 1}) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.";
    const at::Tensor order = indices.tensor(prefix + "experts.neurons").to(at::kLong);
    for (const auto& [part, dim] : {std::pair("gate_proj", 0), std::pair("up_proj", 0), std::pair("down_proj", 1)}) {
      for (int64_t e = 0; e < order.size(0); ++e) {
        const at::Tensor expert = converted.tensor(prefix + "experts." + std::to_string(e) + "." + part + ".weight");
        wrong += expert.ne(source.tensor(prefix + part + ".weight").index_select(dim, order[e])).sum().item<int64_t>();
      }
    }
  }
  return static_cast<double>(wrong);
}

void run(bench::Runner& runner, const Shape& shape) {
  if (!runner.is_wanted(shape.name)) return;
  const WorkFolder folder;
  const fs::path dense = folder / "dense", moe = folder / "moe", copy = folder / "copy";
  write_model(dense, shape);
  const ModelDirectory source(dense);
  const v1::ConvertSpec spec = slicing();
  const auto world = make_self_communicator();
  runner.run({.name = shape.name,
              .dtype = "bfloat16",
              .ours =
                  [&] {
                    fs::remove_all(moe);
                    convert_model({.spec = spec, .seed = 1, .source = source, .tokenizer = nullptr, .output = moe, .progress = {}}, *world);
                  },
              .peer =
                  [&] {
                    fs::remove(copy);
                    copy_and_sync(dense / "model.safetensors", copy);
                  },
              .error = [&] { return wrong_values(dense, moe); },
              .max_error = 0,
              .flops = 0,
              .bytes = 2.0 * static_cast<double>(fs::file_size(dense / "model.safetensors"))});
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::bench::Runner runner("conversion", "copy", argc, argv);
  moe::run(runner, {"slice 300 MB, hidden 1024", 8, 1024, 4096, 16384});
  moe::run(runner, {"slice 600 MB, hidden 2048", 4, 2048, 8192, 16384});
  return runner.finish();
}
