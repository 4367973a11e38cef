#include "testing/tiny_files.h"

#include <ATen/ATen.h>

#include <string>

#include "checkpoint/conversion_files.h"
#include "checkpoint/model_writer.h"
#include "checkpoint/safetensors.h"
#include "comm/communicator.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "testing/tiny_model.h"

namespace moe::testing {

void write_tiny_model(const std::filesystem::path& path, const ModelConfig& config, uint64_t seed,
                      at::ScalarType dtype) {
  Decoder decoder(config, dtype, all_experts(config));
  fill_random(decoder, seed);
  const std::unique_ptr<Communicator> self = make_self_communicator();
  write_model(path, path.parent_path(), decoder, config, dtype, *self, /*writes_experts=*/true);
}

void write_neurons(const std::filesystem::path& model,
                   const std::vector<std::vector<std::vector<int32_t>>>& neurons_by_layer) {
  std::vector<SafetensorsWriter::Spec> specs;
  std::vector<at::Tensor> tensors;
  for (size_t layer = 0; layer < neurons_by_layer.size(); ++layer) {
    std::vector<at::Tensor> rows;
    for (const std::vector<int32_t>& expert : neurons_by_layer[layer]) rows.push_back(at::tensor(expert, at::kInt));
    tensors.push_back(at::stack(rows));
    specs.push_back({conversion_indices_name(static_cast<int64_t>(layer)), at::kInt, tensors.back().sizes().vec()});
  }
  SafetensorsWriter file(model / kConversionIndices, specs);
  for (size_t i = 0; i < specs.size(); ++i) file.write(specs[i].name, tensors[i]);
  file.finish();
}

void write_random_documents(const std::filesystem::path& path, int64_t count, int64_t shortest, int64_t longest,
                            int64_t vocab_size, uint64_t seed) {
  CounterRng rng(seed, kStreamTest, 2);
  std::string lines;
  for (int64_t d = 0; d < count; ++d) {
    const auto length = shortest + static_cast<int64_t>(rng.below(static_cast<uint64_t>(longest - shortest + 1)));
    lines += "{\"ids\": [";
    for (int64_t i = 0; i < length; ++i)
      lines += (i == 0 ? "" : ", ") + std::to_string(rng.below(static_cast<uint64_t>(vocab_size)));
    lines += "]}\n";
  }
  write_file_atomically(path, lines);
}

}  // namespace moe::testing
