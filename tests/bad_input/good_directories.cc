#include "bad_input/bad_files.h"
#include "checkpoint/model_writer.h"
#include "common/file_io.h"
#include "model/decoder.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe::testing {

namespace fs = std::filesystem;

GoodDirectories write_good_directories(const fs::path& folder) {
  GoodDirectories good{folder / "single", folder / "sharded", folder / "json"};
  const ModelConfig config = parse_model_config(good_config().dump(), "good config");
  run_ranks(1, [&](Communicator& world) {
    Decoder decoder(config, at::kFloat, {0, 0});
    fill_random(decoder, 1);
    write_model(good.single, folder / "nowhere", decoder, config, at::kFloat, world, /*writes_experts=*/true);
    std::vector<SafetensorsWriter::Spec> specs;
    std::vector<at::Tensor> values;
    for (const Parameter& parameter : decoder.parameters()) {
      for (const LogicalView& logical : logical_views(parameter, parameter.value.detach())) {
        specs.push_back({logical.name, at::kFloat, logical.view.sizes().vec()});
        values.push_back(logical.view);
      }
    }
    constexpr uint64_t kShardBytes = 90'000;  // the model has 139 KB
    ModelDirectoryWriter writer(good.sharded, folder / "nowhere", specs, kShardBytes);
    for (size_t i = 0; i < specs.size(); ++i) writer.write(specs[i].name, values[i]);
    writer.finish(config);
  });
  fs::copy(good.single, good.json);
  write_file_atomically(good.single / "tokenizer.model", good_tokenizer_model());
  write_file_atomically(good.json / "tokenizer.json", good_tokenizer_json().dump());
  write_file_atomically(good.json / "tokenizer_config.json", good_tokenizer_config().dump());
  return good;
}

}  // namespace moe::testing
