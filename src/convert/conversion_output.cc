#include "convert/conversion_output.h"

#include <utility>
#include <vector>

#include "checkpoint/conversion_files.h"
#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "convert/layer_tensors.h"
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
    if (writer_) writer_->write(name, conversion_.end(name, conversion_.out_type(name)));
    conversion_.release_end(name);
  });
}

void ConversionOutput::write_layer(int64_t layer) {
  if (!writer_) return;
  LayerTensors tensors(conversion_, layer);
  for (const TensorSpec& spec : specs_.layers[layer])
    writer_->write(spec.name, tensors.tensor(spec, conversion_.output_type(spec.id)));
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
