#include "export/dense_format.h"

#include <algorithm>
#include <filesystem>

#include "checkpoint/conversion_files.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "model/model_families.h"

namespace moe {
namespace {

/// The neurons of a layer's parts: of each expert, and last of the shared part, if there is one.
std::vector<IndexList> neurons_of(const SafetensorsFile& artefact, const ModelConfig& config, int64_t layer) {
  const auto list = [](const at::Tensor& numbers) {
    const auto* const first = numbers.const_data_ptr<int32_t>();
    return index_list({first, first + numbers.numel()});
  };
  const auto read = [&](const std::string& name) { return artefact.tensor(name).to(at::kInt).contiguous(); };
  const at::Tensor experts = read(conversion_indices_name(layer));
  std::vector<IndexList> lists;
  // Rows of narrower experts end with -1.
  for (int64_t expert = 0; expert < experts.size(0); ++expert)
    lists.push_back(list(experts[expert].narrow(0, 0, config.moe->expert_width(layer, expert))));
  if (config.moe->shared_widths[layer] > 0) lists.push_back(list(read(shared_indices_name(layer))));
  return lists;
}

/// Empty, or why the file does not hold these numbers.
std::string entry_problem(const SafetensorsFile& artefact, const std::string& name, const std::vector<int64_t>& shape,
                          int64_t layer) {
  const SafetensorsEntry* entry = artefact.find(name);
  if (entry == nullptr) return concat(kConversionIndices, " has no ", name);
  if (entry->dtype != "I32" && entry->dtype != "I64")
    return concat(kConversionIndices, ": ", entry->name, " is ", entry->dtype, ", expected I32");
  return entry->shape == shape
             ? ""
             : concat(kConversionIndices, ": the indices of layer ", layer, " are not of the shape of its experts");
}

/// Empty, or why the parts of a layer are not the neurons of its FFN, each once.
std::string partition_problem(const SafetensorsFile& artefact, const ModelConfig& config, int64_t layer) {
  const MoeConfig& moe = *config.moe;
  std::string problem =
      entry_problem(artefact, conversion_indices_name(layer), {moe.num_experts, moe.expert_widths[layer]}, layer);
  if (problem.empty() && moe.shared_widths[layer] > 0) {
    if (artefact.find(shared_indices_name(layer)) == nullptr)
      return "it has shared experts, whose neurons are not known";
    problem = entry_problem(artefact, shared_indices_name(layer), {moe.shared_widths[layer]}, layer);
  }
  if (!problem.empty()) return problem;
  std::vector<int> uses(config.intermediate_size, 0);
  for (const IndexList& part : neurons_of(artefact, config, layer)) {
    for (const int32_t neuron : *part) {
      if (neuron < 0 || neuron >= config.intermediate_size) {
        return concat(kConversionIndices, ": layer ", layer, " names neuron ", neuron, " of ",
                      config.intermediate_size);
      }
      ++uses[neuron];
    }
  }
  const auto missing = std::count(uses.begin(), uses.end(), 0);
  const auto shared = std::count_if(uses.begin(), uses.end(), [](int count) { return count > 1; });
  if (missing + shared == 0) return "";
  return concat("the experts of layer ", layer, " do not partition its FFN: ", missing, " neurons are in none, ",
                shared, " in several");
}

/// Whether every token goes to one and the same expert with weight 1, of one width in all layers: then this is a dense
/// FFN itself.
bool is_one_expert(const ModelConfig& config) {
  const MoeConfig& moe = *config.moe;
  const auto is_even = [](const auto& values) {
    return std::all_of(values.begin(), values.end(), [&](const auto& value) { return value == values.front(); });
  };
  const std::string& norm = moe.topk_norm;
  // Whatever the score, but for its plain value: alone, a softmax is 1, a sigmoid is not.
  const bool has_weight_one =
      norm == "renorm" || norm == "straight_through" || norm == "unit" || (norm == "raw" && moe.score == "softmax");
  return moe.num_experts == 1 && has_weight_one && is_even(moe.expert_widths) && is_even(moe.shared_widths) &&
         moe.shared_widths.front() == 0;
}

/// Whether that expert is less than the FFN that it was cut out of.
bool is_narrower(const ModelConfig& config) {
  return is_one_expert(config) && config.moe->expert_widths.front() < config.intermediate_size;
}

/// What the conversion did to the experts besides cutting them out of the dense FFN, which cannot be undone.
std::vector<std::string> changes_of_neurons(const ModelConfig& config) {
  const nlohmann::json& conversion = config.moe->conversion;
  std::vector<std::string> reasons;
  if (!conversion.is_object()) return reasons;
  if (conversion.contains("alignment")) {
    reasons.emplace_back(
        "its down projections were multiplied by a factor a channel and rounded (scale.alignment): dividing it out "
        "does not give the dense weights back");
  }
  const auto reconstruction = conversion.find("reconstruction");
  if (reconstruction == conversion.end()) return reasons;
  const bool is_of_router_alone = reconstruction->contains("parameters") && (*reconstruction)["parameters"] == "router";
  if (!is_of_router_alone) {
    reasons.emplace_back(
        "its experts were trained to give the dense output as the router chooses and weighs them (reconstruction): "
        "together they are no longer the dense FFN");
  }
  return reasons;
}

std::vector<std::string> reasons_against(const ModelDirectory& model, const v1::ExportSpec&) {
  const ModelConfig& config = model.config();
  if (!config.moe) return {"it is dense already"};
  if (config.moe->attention) {
    return {concat("its attention is ", config.moe->attention->num_experts,
                   " experts: only those of feed-forward layers are put back")};
  }
  if (is_narrower(config)) {
    if (!config.moe->has_output_bias) return {};
    return {concat("its only expert has an output bias (scale.alignment mean_variance), which an FFN of ",
                   config.model_type, " has no place for")};
  }
  std::vector<std::string> reasons = changes_of_neurons(config);
  if (!reasons.empty()) return reasons;
  const std::filesystem::path path = model.path() / kConversionIndices;
  if (!std::filesystem::exists(path)) {
    const std::vector<int64_t>& shared = config.moe->shared_widths;
    if (std::any_of(shared.begin(), shared.end(), [](int64_t width) { return width > 0; }))
      reasons.emplace_back("it has shared experts, whose neurons are not known");
    reasons.push_back(
        concat("without ", kConversionIndices, " it is not known where the neurons of its experts belong"));
    return reasons;
  }
  const SafetensorsFile artefact(path);
  for (const int64_t layer : config.moe->mixture_layers()) {
    if (std::string problem = partition_problem(artefact, config, layer); !problem.empty()) {
      reasons.push_back(std::move(problem));
      break;
    }
  }
  return reasons;
}

/// Whether the experts hold the neurons of this tensor of the dense FFN. The down bias is of no neuron.
bool is_of_neurons(const TensorId& id, const ModelConfig& mixture) {
  if (id.layer < 0 || !mixture.is_mixture(id.layer)) return false;
  return id.part == TensorPart::kGate || id.part == TensorPart::kUp || (id.part == TensorPart::kDown && !id.is_bias);
}

/// A tensor of the dense FFN, made of the tensors of its parts: each part's neurons at the places that they were cut
/// out of.
PiecedTensor put_back(const TensorSpec& spec, const MoeConfig& moe, const ModelConfig& dense,
                      const std::vector<IndexList>& neurons) {
  PiecedTensor tensor{spec.name, spec.shape};
  for (size_t i = 0; i < neurons.size(); ++i) {
    const auto number = static_cast<int64_t>(i);
    const int64_t expert = number < moe.num_experts ? number : kSharedExpert;
    tensor.pieces.push_back({.source = tensor_name(dense, {spec.id.part, spec.id.layer, expert, spec.id.is_bias}),
                             .dim = spec.id.part == TensorPart::kDown ? 1 : 0,
                             .placed = neurons[i]});
  }
  return tensor;
}

/// The tensor of the mixture that a tensor of the dense model without neurons is.
std::string native_name(const TensorSpec& spec, const ModelConfig& mixture) {
  if (spec.id.part != TensorPart::kDown || !mixture.is_mixture(spec.id.layer)) return spec.name;
  return tensor_name(mixture, {TensorPart::kOutputBias, spec.id.layer, kNoExpert, true});
}

ModelConfig dense_config(const ModelConfig& mixture) {
  ModelConfig dense = mixture;
  dense.moe.reset();
  dense.source.erase("moe");
  dense.source["model_type"] = dense.model_type;
  dense.source["architectures"] = {model_families().at(dense.model_type).architecture};
  return dense;
}

/// The only expert as the FFN, with its layer's output scale.
ExportContents narrower_contents(const ModelDirectory& model) {
  const MoeConfig& moe = *model.config().moe;
  ModelConfig dense = dense_config(model.config());
  dense.intermediate_size = moe.expert_widths.front();
  dense.source["intermediate_size"] = dense.intermediate_size;
  ExportContents contents{.config = to_json(dense), .tensors = {}, .notes = {}};
  for (const TensorSpec& spec : logical_tensor_specs(dense)) {
    PiecedTensor& tensor = contents.tensors.emplace_back(PiecedTensor{spec.name, spec.shape});
    if (is_of_neurons(spec.id, model.config())) {
      tensor.pieces.push_back({.source = tensor_name(dense, {spec.id.part, spec.id.layer, 0, spec.id.is_bias})});
      if (spec.id.part == TensorPart::kDown) tensor.pieces.back().factor = moe.output_scale[spec.id.layer];
    } else {
      tensor.pieces.push_back({native_name(spec, model.config())});
    }
  }
  contents.notes.push_back(concat("the only expert, ", dense.intermediate_size, " of ",
                                  model.config().intermediate_size,
                                  " neurons, is the FFN; output scales stand in its down projections"));
  return contents;
}

ExportContents contents_of(const ModelDirectory& model, const v1::ExportSpec&) {
  if (is_narrower(model.config())) return narrower_contents(model);
  const SafetensorsFile artefact(model.path() / kConversionIndices);
  const ModelConfig dense = dense_config(model.config());
  ExportContents contents{.config = to_json(dense), .tensors = {}, .notes = {}};
  const ModelConfig& mixture = model.config();
  for (const TensorSpec& spec : logical_tensor_specs(dense)) {
    if (is_of_neurons(spec.id, mixture)) {
      contents.tensors.push_back(put_back(spec, *mixture.moe, dense, neurons_of(artefact, mixture, spec.id.layer)));
    } else {
      contents.tensors.push_back({spec.name, spec.shape, {{native_name(spec, mixture)}}});
    }
  }
  contents.notes.emplace_back(
      "routers, output scales and gates of shared experts are left out: every expert counts with weight 1, as before "
      "the conversion");
  return contents;
}

}  // namespace

ExportFormat dense_format() {
  return {"the dense model that it was converted from, each neuron back at its place; of one expert alone, its FFN",
          false, reasons_against,
          [](const ModelConfig& config) {
            return std::vector<ClientNote>{
                {"transformers, vLLM, llama.cpp", true,
                 is_narrower(config) ? concat("a dense ", config.model_type, " model, narrower than the source")
                                     : concat("of the dense ", config.model_type, " model, not of the mixture")}};
          },
          contents_of};
}

}  // namespace moe
