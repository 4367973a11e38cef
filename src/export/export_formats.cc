#include "export/export_formats.h"

#include "export/dense_format.h"
#include "export/stock_formats.h"

namespace moe {
namespace {

/// Our own form: the logical tensors under their names.
ExportFormat native_format() {
  return {
      "our own directory (docs/model_directory.md): whatever this program can run", false,
      [](const ModelDirectory&, const v1::ExportSpec&) { return std::vector<std::string>(); },
      [](const ModelConfig& config) {
        std::vector<ClientNote> clients{{"moe-worker", true, ""}};
        if (config.moe) {
          clients.push_back({"transformers, vLLM, llama.cpp", false, "they do not know this architecture and say so"});
        } else {
          clients.push_back(
              {"transformers, vLLM, llama.cpp", true, "a dense " + config.model_type + " model, as it was"});
        }
        return clients;
      },
      [](const ModelDirectory& model, const v1::ExportSpec&) {
        ExportContents contents{.config = to_json(model.config()), .tensors = {}, .notes = {}};
        for (const TensorSpec& spec : logical_tensor_specs(model.config()))
          contents.tensors.push_back({spec.name, spec.shape, {{spec.name}}});
        return contents;
      }};
}

}  // namespace

const Registry<ExportFormat>& export_formats() {
  static const Registry<ExportFormat> formats("export format",
                                              {
                                                  {"mixtral", stock_format("mixtral")},
                                                  {"granitemoeshared", stock_format("granitemoeshared")},
                                                  {"qwen2_moe", stock_format("qwen2_moe")},
                                                  {"glm4_moe", stock_format("glm4_moe")},
                                                  {"solar_open", stock_format("solar_open")},
                                                  {"native", native_format()},
                                                  {"dense", dense_format()},
                                              });
  return formats;
}

std::vector<std::string> export_format_names() {
  std::vector<std::string> names = export_formats().names();
  names.emplace(names.begin(), "auto");
  return names;
}

}  // namespace moe
