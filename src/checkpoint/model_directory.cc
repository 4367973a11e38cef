#include "checkpoint/model_directory.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/dtypes.h"
#include "checkpoint/finite.h"
#include "common/error.h"
#include "common/file_io.h"
#include "model/layer_weights.h"
#include "model/parameters.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListed = 20;

std::string listed(const std::string& what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string text = "\n  " + what + ":";
  for (size_t i = 0; i < std::min(names.size(), kMaxListed); ++i) text += (i == 0 ? " " : ", ") + names[i];
  if (names.size() > kMaxListed) text += concat(", and ", names.size() - kMaxListed, " more");
  return text;
}

}  // namespace

ModelDirectory::ModelDirectory(const fs::path& path) : path_(path) {
  if (!is_there(path) || !fs::is_directory(path))
    throw InvalidArgument(path.string() + " is not a model directory: no such folder");
  config_ = parse_model_config(read_file(path / "config.json"), (path / "config.json").string());
  files_ = WeightFiles(path);
  if (!config_.stock_layout.empty()) stock_.emplace(config_);
  find_tensors();
  if (stock_) adapt_stock();
}

/// Contents that decide what the model is.
void ModelDirectory::adapt_stock() {
  const auto read = [this](const std::string& name) { return stored_tensor(name); };
  if (stock_->is_shared_expert_zero(read)) {
    stock_->drop_shared_expert(config_);
  } else {
    if (stock_->is_shared_gate_constant(read)) stock_->drop_shared_gate(config_);
    stock_->check_constants(read, path_.string());
  }
  if (stock_->is_selection_bias_zero(read)) stock_->drop_selection_bias(config_);
}

void ModelDirectory::use_top_k(int64_t top_k) {
  if (!config_.moe || config_.moe->num_experts == 0) {
    throw InvalidArgument(concat(path_.string(), ": top_k ", top_k,
                                 " is of feed-forward experts, and this model has none: its feed-forward layers are "
                                 "dense"));
  }
  const int64_t experts = config_.moe->num_experts;
  if (top_k < 1 || top_k > experts)
    throw InvalidArgument(
        concat(path_.string(), ": top_k ", top_k, " of the model's ", experts, " experts; use 1 to ", experts));
  config_.moe->top_k = top_k;
}

void ModelDirectory::find_tensors() {
  std::vector<WeightFiles::Expected> expected;
  if (stock_) {
    for (const PiecedTensor& tensor : stock_->stored()) expected.push_back({tensor.name, tensor.shape});
  } else {
    for (const TensorSpec& tensor : logical_tensor_specs(config_)) expected.push_back({tensor.name, tensor.shape});
  }
  const WeightFiles::Problems problems = files_.find(expected, config_.tie_word_embeddings);
  if (problems.empty()) return;
  throw Corruption(concat(files_.files().front()->path().string(),
                          files_.files().size() > 1 ? " and the other shards" : "", " do not match ",
                          (path_ / "config.json").string(), ":", listed("missing", problems.missing),
                          listed("unexpected", problems.unexpected), listed("mismatched", problems.mismatched),
                          problems.hint.empty() ? "" : "\n  " + problems.hint));
}

at::Tensor ModelDirectory::stored_tensor(const std::string& name) const {
  const WeightFiles::Place& place = files_.place_of(name);
  return place.file->tensor(place.entry->name);
}

const std::string& ModelDirectory::stored_name(const std::string& name) const {
  return stock_ ? stock_->stored_name(name) : name;
}

at::Tensor ModelDirectory::tensor(const std::string& name) const {
  const std::string& stored = stored_name(name);
  at::Tensor tensor = stored_tensor(stored);
  if (stock_) tensor = stock_->native_part(name, tensor);
  if (const int64_t bad = count_non_finite(tensor); bad > 0) {
    const WeightFiles::Place& place = files_.place_of(stored);
    throw Corruption(concat(place.file->path().string(), ": tensor '", place.entry->name, "' holds ", bad,
                            " values of ", tensor.numel(), " that are not finite (NaN or infinite)"));
  }
  return tensor;
}

at::ScalarType ModelDirectory::tensor_type(const std::string& name) const {
  return *scalar_type_of(files_.place_of(stored_name(name)).entry->dtype);
}

std::string ModelDirectory::stored_dtype() const {
  return files_.files().front()->header().entries.front().dtype;
}

void ModelDirectory::release(const std::string& name) const {
  const WeightFiles::Place& place = files_.place_of(stored_name(name));
  place.file->release(place.entry->name);
}

std::string ModelDirectory::digest() const {
  std::string text = xxh3_hex_of_file(path_ / "config.json");
  for (const auto& file : files_.files()) text += file->path().filename().string() + xxh3_hex_of_file(file->path());
  return xxh3_hex(text);
}

namespace {

void read_parameters(const std::vector<Parameter>& parameters, const ModelDirectory& directory) {
  for (const Parameter& parameter : parameters) {
    const at::ScalarType dtype = parameter.value.scalar_type();
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
      at::Tensor view = logical.view;
      const at::Tensor stored = directory.tensor(logical.name);
      view.copy_(stored);
      if (stored.scalar_type() == at::kDouble && dtype != at::kDouble && !at::isfinite(view).all().item<bool>()) {
        throw InvalidArgument(concat(directory.path().string(), ": tensor '", logical.name,
                                     "' holds values too large for ", c10::toString(dtype), "; use float64"));
      }
      directory.release(logical.name);
    }
  }
}

}  // namespace

Decoder load_decoder(const ModelDirectory& directory, const at::TensorOptions& options, const OwnedExperts& experts,
                     bool with_selection_bias) {
  const at::NoGradGuard no_grad;
  ModelConfig config = directory.config();
  const bool adds_bias =
      with_selection_bias && config.moe && config.moe->num_experts > 0 && !config.moe->has_selection_bias;
  if (adds_bias) config.moe->has_selection_bias = true;
  const bool adds_to_attention =
      with_selection_bias && config.moe && config.moe->attention && !config.moe->attention->has_selection_bias;
  if (adds_to_attention) config.moe->attention->has_selection_bias = true;
  Decoder decoder(std::move(config), options, experts);
  std::vector<Parameter> stored;
  for (const Parameter& parameter : decoder.parameters()) {
    const bool is_added = parameter.id.is_of_attention() ? adds_to_attention : adds_bias;
    if (is_added && parameter.id.part == TensorPart::kSelectionBias) {
      parameter.value.zero_();
    } else {
      stored.push_back(parameter);
    }
  }
  read_parameters(stored, directory);
  return decoder;
}

Layer load_layer(const ModelDirectory& directory, int64_t layer, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const ModelConfig& config = directory.config();
  const std::vector<Parameter> parameters = allocate_layer(config, layer, dtype, all_experts(config));
  read_parameters(parameters, directory);
  std::map<TensorId, at::Tensor> by_id;
  for (const Parameter& parameter : parameters) by_id[parameter.id] = parameter.value;
  return layer_weights(config, layer, [&by_id](const TensorId& id) { return by_id.at(id); });
}

}  // namespace moe
