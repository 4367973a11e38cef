#include "export/dense_format.h"

#include <algorithm>
#include <filesystem>

#include "checkpoint/conversion_files.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "model/model_families.h"

namespace moe {
namespace {

/// The neurons of a layer's experts: int64 [experts, width].
at::Tensor neurons_of(const SafetensorsFile& artefact, int64_t layer) {
  return artefact.tensor(conversion_indices_name(layer)).to(at::kLong);
}

/// Empty, or why the experts of a layer are not the neurons of its FFN, each once.
std::string partition_problem(const SafetensorsFile& artefact, const ModelConfig& config, int64_t layer) {
  const MoeConfig& moe = *config.moe;
  const SafetensorsEntry* entry = artefact.find(conversion_indices_name(layer));
  if (entry == nullptr) return concat(kConversionIndices, " has no ", conversion_indices_name(layer));
  if (entry->dtype != "I32" && entry->dtype != "I64")
    return concat(kConversionIndices, ": ", entry->name, " is ", entry->dtype, ", expected I32");
  if (entry->shape != std::vector<int64_t>{moe.num_experts, moe.expert_widths[layer]}) {
    return concat(kConversionIndices, ": the indices of layer ", layer, " are not of the shape of its experts");
  }
  const at::Tensor neurons = neurons_of(artefact, layer).flatten().contiguous();
  std::vector<int> uses(config.intermediate_size, 0);
  for (int64_t i = 0; i < neurons.numel(); ++i) {
    const int64_t neuron = neurons.const_data_ptr<int64_t>()[i];
    if (neuron < 0 || neuron >= config.intermediate_size)
      return concat(kConversionIndices, ": layer ", layer, " names neuron ", neuron, " of ", config.intermediate_size);
    ++uses[neuron];
  }
  const auto missing = std::count(uses.begin(), uses.end(), 0);
  const auto shared = std::count_if(uses.begin(), uses.end(), [](int count) { return count > 1; });
  if (missing + shared == 0) return "";
  return concat("the experts of layer ", layer, " do not partition its FFN: ", missing, " neurons are in none, ",
                shared, " in several");
}

std::vector<std::string> reasons_against(const ModelDirectory& model, const v1::ExportSpec&) {
  const ModelConfig& config = model.config();
  if (!config.moe) return {"it is dense already"};
  std::vector<std::string> reasons;
  const std::vector<int64_t>& shared = config.moe->shared_widths;
  if (std::any_of(shared.begin(), shared.end(), [](int64_t width) { return width > 0; })) {
    reasons.emplace_back("it has shared experts, whose neurons are not known");
  }
  const std::filesystem::path path = model.path() / kConversionIndices;
  if (!std::filesystem::exists(path)) {
    reasons.push_back(
        concat("without ", kConversionIndices, " it is not known where the neurons of its experts belong"));
    return reasons;
  }
  const SafetensorsFile artefact(path);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (std::string problem = partition_problem(artefact, config, layer); !problem.empty()) {
      reasons.push_back(std::move(problem));
      break;
    }
  }
  return reasons;
}

/// Whether the experts hold the neurons of this tensor of the dense FFN. The down bias is of no neuron.
bool is_of_neurons(const TensorId& id) {
  return id.part == TensorPart::kGate || id.part == TensorPart::kUp || (id.part == TensorPart::kDown && !id.is_bias);
}

/// A tensor of the dense FFN, made of the experts' tensors.
ExportTensor gathered(const TensorSpec& spec, const ModelConfig& config, const at::Tensor& neurons) {
  ExportTensor tensor{spec.name, spec.shape, {}};
  for (int64_t expert = 0; expert < neurons.size(0); ++expert) {
    ExportPiece& piece = tensor.pieces.emplace_back();
    piece.place.native = tensor_name(config, {spec.id.part, spec.id.layer, expert, spec.id.is_bias});
    piece.neurons = neurons.select(0, expert).contiguous();
    piece.neuron_dim = spec.id.part == TensorPart::kDown ? 1 : 0;
  }
  return tensor;
}

/// The tensor of the mixture that a tensor of the dense model without neurons is.
std::string native_name(const TensorSpec& spec, const ModelConfig& config) {
  if (spec.id.part != TensorPart::kDown) return spec.name;
  return tensor_name(config, {TensorPart::kOutputBias, spec.id.layer, kNoExpert, true});
}

ExportContents contents_of(const ModelDirectory& model, const v1::ExportSpec&) {
  const SafetensorsFile artefact(model.path() / kConversionIndices);
  ModelConfig dense = model.config();
  dense.moe.reset();
  const ModelFamily& family = model_families().at(dense.model_type);
  dense.source.erase("moe");
  dense.source["model_type"] = dense.model_type;
  dense.source["architectures"] = {family.architecture};
  ExportContents contents{.config = to_json(dense), .tensors = {}, .notes = {}};
  for (const TensorSpec& spec : logical_tensor_specs(dense)) {
    contents.tensors.push_back(is_of_neurons(spec.id)
                                   ? gathered(spec, dense, neurons_of(artefact, spec.id.layer))
                                   : export_tensor({spec.name, spec.shape, {{native_name(spec, dense)}}}));
  }
  contents.notes.emplace_back(
      "routers and output scales are left out: every expert counts with weight 1, as before the conversion");
  return contents;
}

}  // namespace

ExportFormat dense_format() {
  return {"the dense model that it was converted from, each neuron back at its place", false, reasons_against,
          [](const ModelConfig& config) {
            return std::vector<ClientNote>{{"transformers, vLLM, llama.cpp", true,
                                            concat("of the dense ", config.model_type, " model, not of the mixture")}};
          },
          contents_of};
}

}  // namespace moe
