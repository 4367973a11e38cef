#include "convert/reconstruction.h"

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <variant>

#include "checkpoint/safetensors.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "common/xxh3_stream.h"
#include "convert/layer_fit.h"
#include "convert/layer_tensors.h"
#include "model/layer_weights.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kKeptMeasures[] = "measured", kKeptDigest[] = "xxh3_128", kKeptVersion[] = "version";
/// Of kept layers: another whenever what is trained, or what is kept of it, is no longer what it was.
constexpr char kLayerVersion[] = "1";

/// Whether reconstruction.parameters has a tensor trained. The output bias is the dense one, and stays.
bool is_trained(const TensorId& id, const std::string& parameters) {
  if (id.part == TensorPart::kOutputBias || id.part == TensorPart::kSelectionBias) return false;
  return parameters != (is_of_router(id.part) ? "experts" : "router");
}

/// The layer with these weights, at the scale that it has, on the inputs.
LayerFit measure(const Conversion& conversion, int64_t layer, const FeedForwardWeights& dense,
                 const std::vector<Parameter>& parameters, const at::Tensor& inputs_TD) {
  v1::ConvertSpec spec = conversion.spec;
  spec.mutable_scale()->set_mode("fixed");
  spec.mutable_scale()->set_value(conversion.config.moe->output_scale[layer]);
  LayerFeatures features;
  features.ffn_inputs = {inputs_TD, 0, inputs_TD.size(0)};
  features.converted_ffn_inputs_TD = inputs_TD;
  const FitRequest request{.config = conversion.source.config(),
                           .spec = spec,
                           .source = conversion.request.source.path().string(),
                           .layer = layer,
                           .dense = dense,
                           .features = features};
  return fit_layer(request, mixture_of(conversion.config, layer, parameters).weights, *make_self_communicator());
}

/// Of the tensors, in their order, and what was measured.
std::string digest_of(const std::vector<std::span<const std::byte>>& tensors, const std::string& measured) {
  Xxh3Stream digest;
  for (const std::span<const std::byte> tensor : tensors) digest.add(tensor);
  digest.add(std::as_bytes(std::span(measured)));
  return digest.hex();
}

}  // namespace

Reconstruction::Reconstruction(Conversion& conversion, const CalibrationPass& pass, Communicator& world,
                               std::function<void(int64_t)> progress)
    : conversion_(conversion), pass_(pass), world_(world), progress_(std::move(progress)) {}

fs::path Reconstruction::path_of(int64_t layer) const {
  return conversion_.request.kept_layers / concat("layer-", layer, ".safetensors");
}

void Reconstruction::add(int64_t layer) {
  const std::string measured =
      agree_on_result(world_, concat("look for reconstructed layer ", layer), [&] { return measured_of(layer); });
  if (!measured.empty()) {
    if (world_.rank() == 0)
      log_info(concat("event=reconstructed_layer_reused layer=", layer, " path=", path_of(layer).string()));
    use(layer, measured);
    return progress_(1);
  }
  tasks_.push_back({layer, gather_inputs(static_cast<int>(tasks_.size()))});
  if (static_cast<int>(tasks_.size()) == world_.size()) finish();
}

/// Collective.
at::Tensor Reconstruction::gather_inputs(int owner) const {
  const at::Tensor mine = pass_.features().ffn_inputs.local_TD.contiguous();
  const at::Tensor counts = world_.all_gather(at::full({1}, mine.size(0), at::kLong), "tokens to reconstruct");
  std::vector<int64_t> sent(world_.size(), 0), received(world_.size(), 0);
  sent[owner] = mine.size(0);
  if (world_.rank() == owner)
    received.assign(counts.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>() + counts.numel());
  return world_.all_to_all(mine, sent, received, "inputs to reconstruct");
}

void Reconstruction::finish() {
  if (tasks_.empty()) return;
  bool is_done = true;
  agree(world_, concat("reconstruct layers ", tasks_.front().layer, " to ", tasks_.back().layer), [&] {
    if (world_.rank() < static_cast<int>(tasks_.size())) is_done = train(tasks_[world_.rank()]);
  });
  const std::vector<Task> done = std::exchange(tasks_, {});
  if (any_rank(world_, "reconstruction was stopped", !is_done)) {
    progress_(0);
    throw_agreed<Internal>("a layer was asked to stop its reconstruction, and the work to go on");
  }
  for (const Task& task : done) {
    use(task.layer, agree_on_result(world_, concat("read reconstructed layer ", task.layer), [&] {
          const std::string measured = measured_of(task.layer);
          if (measured.empty()) {
            throw StorageError(concat("kept layer ", path_of(task.layer).string(),
                                      " cannot be read back right after it was written; look at the storage"));
          }
          return measured;
        }));
    progress_(1);
  }
}

/// On this rank alone; false: stopped on the way.
bool Reconstruction::train(const Task& task) const {
  const Layer dense = conversion_.source.layer(task.layer);
  conversion_.release_layer(task.layer);
  const auto& ffn = std::get<FeedForwardWeights>(dense.ffn);
  std::vector<Parameter> parameters = layer_parameters(conversion_, task.layer, /*mixture_alone=*/true);
  for (const DenseSource& other : conversion_.others) other.release_layer(task.layer);
  std::vector<bool> trained;
  for (const Parameter& parameter : parameters)
    trained.push_back(is_trained(parameter.id, conversion_.spec.reconstruction().parameters()));
  const double before = measure(conversion_, task.layer, ffn, parameters, task.inputs_TD).relative_error;
  if (!conversion_.request.train_layer({.config = conversion_.config,
                                        .layer = task.layer,
                                        .parameters = parameters,
                                        .is_trained = trained,
                                        .inputs_TD = task.inputs_TD,
                                        .wanted_TD = feed_forward(ffn, task.inputs_TD)}))
    return false;
  const LayerFit fit = measure(conversion_, task.layer, ffn, parameters, task.inputs_TD);
  keep(task.layer, parameters, trained,
       {{"before", before},
        {"after", fit.relative_error},
        {"router_logit_deviation", fit.router_logit_deviation},
        {"expert_load", fit.expert_load}});
  return true;
}

/// What was not trained is made again when it is written.
void Reconstruction::keep(int64_t layer, const std::vector<Parameter>& parameters, const std::vector<bool>& is_trained,
                          const json& measured) const {
  std::vector<LogicalView> tensors;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!is_trained[i]) continue;
    for (LogicalView& logical : logical_views(parameters[i], parameters[i].value))
      tensors.push_back({logical.name, logical.view.contiguous()});
  }
  std::vector<SafetensorsWriter::Spec> specs;
  std::vector<std::span<const std::byte>> bytes;
  for (const LogicalView& tensor : tensors) {
    specs.push_back({tensor.name, at::kFloat, tensor.view.sizes().vec()});
    bytes.emplace_back(static_cast<const std::byte*>(tensor.view.const_data_ptr()), tensor.view.nbytes());
  }
  make_directories(conversion_.request.kept_layers);
  const std::string measures = measured.dump();
  SafetensorsWriter file(
      path_of(layer), specs,
      {{kKeptVersion, kLayerVersion}, {kKeptMeasures, measures}, {kKeptDigest, digest_of(bytes, measures)}});
  for (const LogicalView& tensor : tensors) file.write(tensor.name, tensor.view);
  file.finish();
}

std::string Reconstruction::measured_of(int64_t layer) const {
  const fs::path path = path_of(layer);
  if (!is_there(path)) return "";
  try {
    const SafetensorsFile file(path);
    const std::map<std::string, std::string>& metadata = file.header().metadata;
    const auto value = [&](const char* key) {
      const auto found = metadata.find(key);
      return found == metadata.end() ? std::string() : found->second;
    };
    if (value(kKeptVersion) != kLayerVersion) {
      log_warning(concat("event=reconstructed_layer_of_other_version path=", path.string(),
                         " version=", value(kKeptVersion), " expected=", kLayerVersion, "; it is not used"));
      return "";
    }
    std::vector<std::span<const std::byte>> tensors;
    for (const SafetensorsEntry& entry : file.header().entries) tensors.push_back(file.bytes(entry));
    const std::string measured = value(kKeptMeasures);
    if (value(kKeptDigest) == digest_of(tensors, measured)) return measured;
  } catch (const Corruption&) {
  }
  log_warning(concat("event=reconstructed_layer_damaged path=", path.string(), "; it is not used"));
  return "";
}

void Reconstruction::use(int64_t layer, const std::string& measured) {
  const json numbers = json::parse(measured);
  ConvertedLayer& made = conversion_.layers[layer];
  made.reconstructed = path_of(layer);
  made.report["relative_ffn_error"] = numbers["after"];
  made.report["router_logit_deviation"] = numbers["router_logit_deviation"];
  made.report["expert_load"] = numbers["expert_load"];
  made.report["reconstruction"] = {{"before", numbers["before"]}, {"after", numbers["after"]}};
}

}  // namespace moe
