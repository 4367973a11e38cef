#include <cmath>
#include <functional>
#include <map>

#include "bad_input/bad_files.h"
#include "checkpoint/safetensors.h"
#include "common/file_io.h"

namespace moe::testing {
namespace {

namespace fs = std::filesystem;
constexpr char kFile[] = "model.safetensors";

}  // namespace

std::vector<BadFile> bad_safetensors_tensors(const fs::path& good) {
  std::map<std::string, at::Tensor> tensors;
  const SafetensorsFile source(good / kFile);
  for (const SafetensorsEntry& entry : source.header().entries) tensors[entry.name] = source.tensor(entry.name).clone();
  const auto changed = [&](const std::string& name,
                           const std::function<void(std::map<std::string, at::Tensor>&)>& change,
                           std::vector<std::string> says) {
    std::map<std::string, at::Tensor> copies;
    for (const auto& [key, value] : tensors) copies[key] = value.clone();
    change(copies);
    std::vector<SafetensorsWriter::Spec> specs;
    for (const auto& [key, value] : copies) specs.push_back({key, value.scalar_type(), value.sizes().vec()});
    const fs::path path = good / "changed.tmp";
    SafetensorsWriter writer(path, specs);
    for (const auto& [key, value] : copies) writer.write(key, value);
    writer.finish();
    BadFile file{name, kFile, read_file(path), std::move(says)};
    fs::remove(path);
    return file;
  };
  const std::string norm = "model.layers.1.input_layernorm.weight", up = "model.layers.0.mlp.up_proj.weight";
  std::string cut = read_file(good / kFile);
  cut.resize(cut.size() - 1);
  return {
      {"one_byte_short", kFile, cut, {"truncated"}},
      changed("tensor_missing", [&](auto& all) { all.erase(up); }, {"missing: " + up}),
      changed("tensor_unexpected", [](auto& all) { all["model.layers.0.mlp.bias"] = at::zeros({3}); },
              {"unexpected: model.layers.0.mlp.bias"}),
      changed("layer_too_many", [&](auto& all) { all["model.layers.2.input_layernorm.weight"] = all[norm].clone(); },
              {"unexpected: model.layers.2."}),
      changed("shape_transposed", [&](auto& all) { all[up] = all[up].t().contiguous(); },
              {up + " is [32,48], expected [48,32]"}),
      changed("shape_flat", [&](auto& all) { all[up] = all[up].flatten(); }, {up + " is [1536], expected [48,32]"}),
      changed("weight_int32", [&](auto& all) { all[norm] = all[norm].to(at::kInt); },
              {norm + " has dtype I32", "F32, F16, BF16 or F64"}),
      changed("weight_bool", [&](auto& all) { all[norm] = all[norm].to(at::kBool); }, {norm + " has dtype BOOL"}),
      changed("weight_scalar", [&](auto& all) { all[norm] = at::ones({}); }, {norm + " is [], expected [32]"}),
      changed("weight_nan", [&](auto& all) { all[up][3][4] = std::nanf(""); }, {up, "1 values of 1536", "not finite"}),
      changed("weight_infinite", [&](auto& all) { all[norm].fill_(INFINITY); },
              {norm, "32 values of 32", "not finite"}),
      changed("weight_bf16_nan", [&](auto& all) { all[up] = all[up].to(at::kBFloat16).fill_(std::nanf("")); },
              {up, "1536 values", "not finite"}),
      {"weight_f8_e4m3",
       kFile,
       safetensors_bytes(R"({"model.norm.weight":{"dtype":"F8_E4M3","shape":[32],"data_offsets":[0,32]}})",
                         std::string(32, 'x')),
       {"model.norm.weight has dtype F8_E4M3", "missing: model.embed_tokens.weight"}},
      {"weight_f4",
       kFile,
       safetensors_bytes(R"({"model.norm.weight":{"dtype":"F4","shape":[32],"data_offsets":[0,16]}})",
                         std::string(16, 'x')),
       {"model.norm.weight has dtype F4"}},
      {"nothing_in_it", kFile, safetensors_bytes("{}", ""), {"missing: model.embed_tokens.weight"}},
      {"not_safetensors",
       kFile,
       "PK\x03\x04 a zip file, as PyTorch's own format is",
       {"over the limit", "not a safetensors file"}},
  };
}

}  // namespace moe::testing
