#include "convert/conversion_output.h"

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "checkpoint/conversion_files.h"
#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "model/tensor_specs.h"

namespace moe {

void ConversionOutput::open() {
  specs_ = placed_specs(conversion_.config);
  if (world_.rank() != 0) return;
  std::vector<SafetensorsWriter::Spec> specs;
  for (const TensorSpec& spec : logical_tensor_specs(conversion_.config))
    specs.push_back({spec.name, conversion_.output_type(spec.id), spec.shape});
  writer_.emplace(conversion_.request.output, conversion_.request.source.path(), specs);
}

void ConversionOutput::write_before_layers() {
  for (const TensorSpec& spec : specs_.before_layers) copy(spec.name);
}

void ConversionOutput::write_after_layers() {
  for (const TensorSpec& spec : specs_.after_layers) copy(spec.name);
}

void ConversionOutput::copy(const std::string& name) {
  agree(world_, "copy " + name, [&] {
    const ModelDirectory& source = conversion_.request.source;
    if (writer_) writer_->write(name, source.tensor(name).to(conversion_.out_type(name)));
    source.release(name);
  });
}

/// Tensors of the models as they are stored, each read (and checked) once while the function lives.
PlannedLayer::Models ConversionOutput::stored_models() const {
  const auto read = std::make_shared<std::map<std::pair<int64_t, std::string>, at::Tensor>>();
  return [this, read](int64_t model, const std::string& name) {
    const auto [place, is_new] = read->try_emplace({model, name});
    if (is_new) {
      const ModelDirectory& directory =
          model == 0 ? conversion_.request.source : conversion_.others.at(model - 1).directory();
      place->second = directory.tensor(name).contiguous();
    }
    return place->second;
  };
}

void ConversionOutput::write_layer(int64_t layer) {
  if (!writer_) return;
  const ModelDirectory& source = conversion_.request.source;
  const ConvertedLayer& planned = conversion_.layers[layer];
  const PlannedLayer::Models models = stored_models();
  const auto type_of = [&](const TensorSpec& spec) { return conversion_.output_type(spec.id); };
  const auto write = [&](const TensorSpec& spec, const at::Tensor& tensor) {
    writer_->write(spec.name, tensor.to(type_of(spec)));
  };
  std::vector<at::Tensor> downs;
  if (planned.planned)
    downs = planned.planned->routed_downs(conversion_.output_type({TensorPart::kDown, layer, 0}), models);
  for (const TensorSpec& spec : specs_.layers[layer]) {
    if (spec.id.is_routed() && spec.id.part == TensorPart::kDown) {
      write(spec, std::exchange(downs.at(spec.id.expert), {}));
    } else if (planned.planned && planned.planned->makes(spec.name)) {
      write(spec, planned.planned->tensor(spec.name, type_of(spec), models));
    } else if (planned.attention && planned.attention->makes(spec.name)) {
      write(spec, planned.attention->tensor(spec.name, type_of(spec), models));
    } else if (spec.id.part == TensorPart::kRouter) {
      write(spec, spec.id.routes_attention ? planned.attention_router : planned.router);
    } else if (spec.id.part == TensorPart::kRouterGain) {
      write(spec, at::zeros(spec.shape));
    } else {
      write(spec, source.tensor(conversion_.source_of(spec.id)));
    }
  }
  for (const DenseSource& other : conversion_.others) other.release_layer(layer);
}

void ConversionOutput::finish_weights() {
  if (writer_) writer_->write_config(conversion_.config);
}

/// The neurons of layers whose experts are copies of neurons, and the heads of attention's experts.
void ConversionOutput::write_indices() {
  std::vector<std::pair<std::string, at::Tensor>> indices;
  for (size_t i = 0; i < conversion_.layers.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    const ConvertedLayer& planned = conversion_.layers[i];
    const auto add = [&](const std::string& name, const at::Tensor& numbers) {
      if (numbers.defined()) indices.emplace_back(name, numbers);
    };
    if (planned.attention) {
      add(query_heads_name(layer), planned.attention->query_heads());
      add(kv_heads_name(layer), planned.attention->kv_heads());
    }
    if (!planned.planned) continue;
    add(conversion_indices_name(layer), planned.planned->expert_neurons());
    add(shared_indices_name(layer), planned.planned->shared_neurons());
  }
  if (indices.empty()) return;
  std::vector<SafetensorsWriter::Spec> specs;
  for (const auto& [name, neurons] : indices) specs.push_back({name, at::kInt, neurons.sizes().vec()});
  SafetensorsWriter artefact(writer_->folder() / kConversionIndices, specs);
  for (const auto& [name, neurons] : indices) artefact.write(name, neurons);
  artefact.finish();
}

void ConversionOutput::commit(const nlohmann::json& report) {
  if (!writer_) return;
  write_indices();
  write_file_atomically(writer_->folder() / kConversionReport, report.dump(1) + "\n");
  writer_->commit();
}

}  // namespace moe
