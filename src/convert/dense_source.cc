#include "convert/dense_source.h"

#include "model/layer_weights.h"

namespace moe {

DenseSource::DenseSource(const ModelDirectory& directory, at::ScalarType dtype)
    : directory_(directory), dtype_(dtype), specs_(placed_specs(directory.config())) {}

at::Tensor DenseSource::tensor(const std::string& name) const {
  return directory_.tensor(name).to(dtype_).contiguous();
}

at::Tensor DenseSource::embedding() const {
  return directory_.tensor(tensor_name(config(), {TensorPart::kEmbedding}));
}

Layer DenseSource::layer(int64_t layer) const {
  return layer_weights(config(), layer, [this](const TensorId& id) { return tensor(tensor_name(config(), id)); });
}

DenseSource::Head DenseSource::head() const {
  const TensorSource get = [this](const TensorId& id) { return tensor(tensor_name(config(), id)); };
  const TensorId head{config().tie_word_embeddings ? TensorPart::kEmbedding : TensorPart::kHead};
  return {final_norm_weights(config(), get), get(head),
          config().head_bias ? get(TensorId{TensorPart::kHead}.bias()) : at::Tensor()};
}

void DenseSource::release_ends() const {
  for (const std::vector<TensorSpec>* specs : {&specs_.before_layers, &specs_.after_layers}) {
    for (const TensorSpec& spec : *specs) directory_.release(spec.name);
  }
}

void DenseSource::release_layer(int64_t layer) const {
  for (const TensorSpec& spec : specs_.layers[layer]) directory_.release(spec.name);
}

}  // namespace moe
