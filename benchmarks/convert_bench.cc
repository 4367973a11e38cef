// A conversion that only slices (independent_random, fixed scale, Kaiming router) against copying the same bytes to a
// new file and syncing it. Both read a file that the system has cached and write a new one.
//
//   moe_convert_bench [--threads N] [--seconds S] [--filter TEXT]      MOE_BENCH_DIR: folder to work in (default: the
//   temporary one)

#include <filesystem>
#include <string>

#include "bench.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "convert/converter.h"
#include "synthetic_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

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

void run(bench::Runner& runner, const bench::LlamaShape& shape) {
  if (!runner.is_wanted(shape.name)) return;
  const bench::WorkFolder folder;
  const fs::path dense = folder / "dense", moe = folder / "moe", copy = folder / "copy";
  bench::write_synthetic_llama(dense, shape);
  const ModelDirectory source(dense);
  const v1::ConvertSpec spec = bench::slicing("independent_random", 8, 2, "kaiming");
  const auto world = make_self_communicator();
  runner.run({.name = shape.name,
              .dtype = "bfloat16",
              .ours =
                  [&] {
                    fs::remove_all(moe);
                    convert_model(
                        {.spec = spec, .seed = 1, .source = source, .text = {}, .output = moe, .monitor = unwatched()},
                        *world);
                  },
              .peer =
                  [&] {
                    fs::remove(copy);
                    bench::copy_and_sync(dense / "model.safetensors", copy);
                  },
              .error = [&] { return wrong_values(dense, moe); },
              .max_error = 0,
              .flops = 0,
              .bytes = 2.0 * static_cast<double>(fs::file_size(dense / "model.safetensors"))});
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  return moe::bench::run_main([&] {
    moe::bench::Runner runner("conversion", "copy", argc, argv);
    moe::run(runner, {"slice 300 MB, hidden 1024", 8, 1024, 4096, 16384});
    moe::run(runner, {"slice 600 MB, hidden 2048", 4, 2048, 8192, 16384});
    return runner.finish();
  });
}
