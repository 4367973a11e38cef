#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "model/tensor_specs.h"
#include "runtime/opened_model.h"
#include "worker/job_context.h"

namespace moe {
namespace {

using nlohmann::json;

/// Sums over the values of one tensor, or of several.
struct Size {
  int64_t count = 0;
  double squares = 0;
  double largest = 0;  ///< of the absolute values
  double squared_change = 0;
  double squared_before = 0;

  Size& operator+=(const Size& other) {
    count += other.count;
    squares += other.squares;
    largest = std::max(largest, other.largest);
    squared_change += other.squared_change;
    squared_before += other.squared_before;
    return *this;
  }
  double norm() const { return std::sqrt(squares); }
  /// Root of the mean square: what parts of different sizes can be compared by.
  double rms() const { return count > 0 ? std::sqrt(squares / static_cast<double>(count)) : 0; }
  /// ||w - before|| / ||before||; nothing where there was nothing to compare with.
  std::optional<double> change() const {
    return squared_before > 0 ? std::optional(std::sqrt(squared_change / squared_before)) : std::nullopt;
  }
};

json to_json(const Size& size) {
  json result = {{"norm", size.norm()}, {"rms", size.rms()}, {"largest", size.largest}};
  if (size.change()) result["change"] = *size.change();
  return result;
}

double squared_norm(const at::Tensor& values) {
  const auto norm = at::linalg_vector_norm(values, 2, std::nullopt, /*keepdim=*/false, at::kDouble).item<double>();
  return norm * norm;
}

Size size_of(const at::Tensor& stored, const at::Tensor& stored_before) {
  const auto exact = [](const at::Tensor& values) { return values.to(promoteTypes(values.scalar_type(), at::kFloat)); };
  const at::Tensor values = exact(stored);
  Size size{.count = values.numel(),
            .squares = squared_norm(values),
            .largest = std::max(values.max().item<double>(), -values.min().item<double>())};
  if (stored_before.defined()) {
    const at::Tensor before = exact(stored_before);
    size.squared_change = squared_norm(values - before);
    size.squared_before = squared_norm(before);
  }
  return size;
}

/// A layer's part that a tensor counts to.
std::string part_of(const TensorId& id) {
  switch (id.part) {
    case TensorPart::kQuery:
    case TensorPart::kKey:
    case TensorPart::kValue:
    case TensorPart::kAttentionOut: return "attention";
    case TensorPart::kRouter:
    case TensorPart::kRouterOut:
    case TensorPart::kRouterGate:
    case TensorPart::kRouterNoise:
    case TensorPart::kRouterGain: return "router";
    case TensorPart::kSelectionBias: return "selection_bias";
    case TensorPart::kGate:
    case TensorPart::kUp:
    case TensorPart::kDown:
    case TensorPart::kOutputBias: return id.expert == kSharedExpert ? "shared_expert" : "ffn";
    default: return "norms";
  }
}

struct LayerSizes {
  std::map<std::string, Size> parts;
  std::map<int64_t, Size> experts;  ///< by number
};

/// Least rms of an expert over the mean of its layer, of the worst layer; 1 where there are no experts.
double least_expert_rms(const std::map<int64_t, LayerSizes>& layers) {
  double least = 1;
  for (const auto& [number, layer] : layers) {
    double sum = 0, smallest = std::numeric_limits<double>::max();
    for (const auto& [expert, size] : layer.experts) {
      sum += size.rms();
      smallest = std::min(smallest, size.rms());
    }
    if (sum > 0) least = std::min(least, smallest * static_cast<double>(layer.experts.size()) / sum);
  }
  return least;
}

/// Both models, opened; the second only if changes are wanted.
struct Models {
  OpenedModel model;
  std::optional<OpenedModel> baseline;

  void require_same_tensors() const {
    if (!baseline) return;
    // Selection biases are not compared: a training may add them to routers that had none.
    ModelConfig now = model.directory.config(), before = baseline->directory.config();
    for (ModelConfig* const config : {&now, &before}) {
      if (config->moe) config->moe->has_selection_bias = false;
    }
    if (have_same_tensors(now, before)) return;
    throw InvalidArgument(concat("analyze: baseline ", baseline->directory.path().string(), " has not the tensors of ",
                                 model.directory.path().string(),
                                 "; give the model that its training began with, or leave baseline out"));
  }

  Size measure(const TensorSpec& spec) const {
    const std::string& name = spec.name;
    const bool compares = baseline && spec.id.part != TensorPart::kSelectionBias;
    const Size size = size_of(model.directory.tensor(name), compares ? baseline->directory.tensor(name) : at::Tensor());
    model.directory.release(name);
    if (compares) baseline->directory.release(name);
    return size;
  }
};

Models open_models(const JobContext& context) {
  const v1::AnalyzeSpec& spec = context.stage.analyze();
  Models models{open_model(context.model_path(spec.input()), {}, context.world), std::nullopt};
  if (spec.has_baseline()) models.baseline = open_model(context.model_path(spec.baseline()), {}, context.world);
  std::map<std::string, std::string> configs;
  agree(context.world, "compare tensors", [&] {
    models.require_same_tensors();
    const std::filesystem::path config = models.model.directory.path() / "config.json";
    configs[config.string()] = xxh3_hex_of_file(config);
  });
  require_same_files(context.world, "before the analysis", configs);  // which says what ranks are going to ask rank 0
  return models;
}

/// Rank 0 reads and tells: the work is that of the storage.
Size measured_on_rank_0(const Models& models, const TensorSpec& spec, Communicator& world) {
  const std::string told = agree_on_result(world, "measure " + spec.name, [&] {
    const Size size = models.measure(spec);
    return json{size.count, size.squares, size.largest, size.squared_change, size.squared_before}.dump();
  });
  const json numbers = json::parse(told);
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
}

json to_json(const std::map<int64_t, LayerSizes>& layers) {
  json all = json::array();
  for (const auto& [number, layer] : layers) {
    json one = {{"layer", number}};
    for (const auto& [part, size] : layer.parts) one[part] = to_json(size);
    for (const auto& [expert, size] : layer.experts) one["experts"].push_back(to_json(size));
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace

std::optional<JobOutcome> run_analyze_job(const JobContext& context) {
  const Models models = open_models(context);
  const std::vector<TensorSpec> specs = logical_tensor_specs(models.model.directory.config());
  Size all;
  std::map<int64_t, LayerSizes> layers;
  json tensors = json::array();
  for (const TensorSpec& spec : specs) {
    const Size size = measured_on_rank_0(models, spec, context.world);
    all += size;
    if (spec.id.layer >= 0) {
      LayerSizes& layer = layers[spec.id.layer];
      (spec.id.is_routed() ? layer.experts[spec.id.expert] : layer.parts[part_of(spec.id)]) += size;
    }
    json row = to_json(size);
    row.update({{"name", spec.name}, {"shape", spec.shape}});
    tensors.push_back(std::move(row));
    context.monitor.unit_done({.phase = "analyzing",
                               .unit = "tensor",
                               .done = static_cast<int64_t>(tensors.size()),
                               .all = static_cast<int64_t>(specs.size())});
  }
  JobOutcome outcome;
  outcome.metrics = {{"weight_norm", all.norm()},
                     {"largest_weight", all.largest},
                     {"least_expert_rms_over_mean", least_expert_rms(layers)}};
  if (all.change()) outcome.metrics["weight_change"] = *all.change();
  const json result = {{"metrics", outcome.metrics}, {"layers", to_json(layers)}, {"tensors", std::move(tensors)}};
  agree(context.world, "write analysis", [&] {
    if (context.world.rank() != 0) return;
    PendingDirectory output(context.output_path);
    write_file_atomically(output.folder() / "analysis.json", result.dump(1) + "\n");
    output.commit();
  });
  return outcome;
}

}  // namespace moe
