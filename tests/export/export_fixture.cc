#include "export/export_fixture.h"

#include "checkpoint/model_directory.h"
#include "checkpoint/model_writer.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "export/exporter.h"
#include "testing/tiny_model.h"

namespace moe::testing {

ModelConfig mixture_config(const MixtureSpec& spec) {
  nlohmann::json json = tiny_json(spec.family);
  json.update(spec.keys);
  ModelConfig config = parse_model_config(json.dump(), "mixture");
  MoeConfig moe;
  moe.base_model_type = spec.family;
  moe.num_experts = spec.experts;
  moe.top_k = spec.top_k;
  moe.expert_widths = spec.widths;
  moe.shared_widths = spec.shared;
  moe.shared_gate = spec.shared_gate;
  moe.shared_gate_rows = spec.gate_rows;
  moe.shared_gate_scale = spec.gate_scale;
  moe.output_scale = spec.scales;
  moe.topk_norm = spec.topk_norm;
  moe.score = spec.score;
  moe.router = spec.router;
  moe.has_selection_bias = spec.selection_bias;
  moe.has_output_bias = spec.output_bias;
  moe.attention = spec.attention;
  config.moe = moe;
  return config;
}

void write_mixture(const std::filesystem::path& path, const MixtureSpec& spec, at::ScalarType dtype, uint64_t seed) {
  const ModelConfig config = mixture_config(spec);
  Decoder decoder(config, at::kFloat, all_experts(config));
  fill_random(decoder, seed);
  write_model(path, /*source=*/path, decoder, config, dtype, *make_self_communicator(), true);
}

void store_in(const std::filesystem::path& path, const std::string& part, at::ScalarType dtype) {
  {
    const SafetensorsFile file(path / "model.safetensors");
    const auto stored = [&](const std::string& name) {
      const at::Tensor tensor = file.tensor(name);
      return name.find(part) == std::string::npos ? tensor : tensor.to(dtype);
    };
    std::vector<SafetensorsWriter::Spec> specs;
    for (const SafetensorsEntry& entry : file.header().entries)
      specs.push_back({entry.name, stored(entry.name).scalar_type(), entry.shape});
    SafetensorsWriter writer(path / "changed", specs);
    for (const auto& spec : specs) writer.write(spec.name, stored(spec.name));
    writer.finish();
  }
  std::filesystem::rename(path / "changed", path / "model.safetensors");
}

v1::ExportSpec export_spec(const std::string& format) {
  v1::ExportSpec spec;
  spec.set_format(format);
  spec.set_dtype("float32");
  spec.set_max_shard_bytes(5'000'000'000);
  spec.set_pad_experts_to(0);
  spec.set_allow_padding(false);
  spec.set_keep_tied(false);
  return spec;
}

nlohmann::json export_to(const std::filesystem::path& source, const std::filesystem::path& output,
                         const v1::ExportSpec& spec) {
  const ModelDirectory directory(source);
  return export_model({.spec = spec, .source = directory, .output = output, .monitor = unwatched()},
                      *make_self_communicator());
}

std::string refusal(const std::filesystem::path& source, const v1::ExportSpec& spec) {
  const std::filesystem::path output = source.string() + ".refused";
  try {
    export_to(source, output, spec);
  } catch (const InvalidArgument& error) {
    EXPECT_FALSE(std::filesystem::exists(output));
    EXPECT_FALSE(std::filesystem::exists(output.string() + ".partial"));
    return error.what();
  }
  return "";
}

at::Tensor logits_of_directory(const std::filesystem::path& path) {
  const ModelDirectory directory(path);
  return logits_of(path, random_batch({33, 1, 27}, directory.config().vocab_size, 5));
}

}  // namespace moe::testing
