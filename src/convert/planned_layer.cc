#include "convert/planned_layer.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "common/error.h"
#include "convert/placed_specs.h"

namespace moe {
namespace {

/// One tensor of an FFN, and where its neurons lie.
struct FfnPart {
  TensorPart part;
  bool is_bias;
  at::Tensor FeedForwardWeights::*weights;

  bool is_down() const { return part == TensorPart::kDown; }
  int64_t dim() const { return is_down() ? 1 : 0; }
  TensorId of(int64_t layer, int64_t expert) const { return {part, layer, expert, is_bias}; }
  std::vector<int64_t> shape(int64_t width, int64_t hidden) const {
    if (is_bias) return {width};
    return is_down() ? std::vector<int64_t>{hidden, width} : std::vector<int64_t>{width, hidden};
  }
};

/// In the order of an expert's tensors. A mixture has one output bias instead of down biases.
std::vector<FfnPart> parts_of(const ModelConfig& config) {
  std::vector<FfnPart> parts;
  const auto add = [&](TensorPart part, at::Tensor FeedForwardWeights::*weight, at::Tensor FeedForwardWeights::*bias) {
    parts.push_back({part, false, weight});
    if (config.mlp_bias) parts.push_back({part, true, bias});
  };
  if (config.is_gated) add(TensorPart::kGate, &FeedForwardWeights::gate, &FeedForwardWeights::gate_bias);
  add(TensorPart::kUp, &FeedForwardWeights::up, &FeedForwardWeights::up_bias);
  parts.push_back({TensorPart::kDown, false, &FeedForwardWeights::down});
  return parts;
}

}  // namespace

PlannedLayer::PlannedLayer(LayerPlan plan, const ModelConfig& config, int64_t layer)
    : plan_(std::move(plan)), widths_(plan_.widths()), config_(config), layer_(layer) {
  for (size_t e = 0; e < plan_.experts.size(); ++e) add(plan_.experts[e], static_cast<int64_t>(e));
  if (widths_.shared > 0) add(plan_.shared, kSharedExpert);
  if (plan_.others.empty()) return;
  std::set<std::string> beside;
  for (const TensorSpec& spec : specs_beside_ffn(config, layer)) beside.insert(spec.name);
  for (const PiecedTensor& other : plan_.others) {
    MOE_CHECK(beside.contains(other.name), other.name, " is no tensor of layer ", layer, " beside its FFN");
    tensors_.emplace(other.name, other);
  }
}

const PiecedTensor& PlannedLayer::described(const TensorId& id) const {
  return tensors_.at(tensor_name(config_, id));
}

void PlannedLayer::add(const ExpertPlan& expert, int64_t number) {
  const std::vector<FfnPart> parts = parts_of(config_);
  for (const FfnPart& part : parts) {
    const std::string name = tensor_name(config_, part.of(layer_, number));
    tensors_.emplace(name, PiecedTensor{name, part.shape(expert.width(), config_.hidden_size)});
  }
  int64_t begin = 0, end = 0;
  for (const NeuronRun& run : expert.runs) {
    if (!run.adds) begin = end;
    end = begin + static_cast<int64_t>(run.neurons->size());
    if (run.remake) remade_.push_back(run);
    for (const FfnPart& part : parts) {
      TensorPiece piece = taken_piece(run, part.of(layer_, kNoExpert));
      piece.start = begin;
      piece.adds = run.adds;
      if (run.remake) {
        // What was made is the run, chosen and scaled.
        piece.model = -static_cast<int64_t>(remade_.size());
        piece.taken = nullptr;
        piece.factor = 1;
      }
      tensors_.at(tensor_name(config_, part.of(layer_, number))).pieces.push_back(std::move(piece));
    }
  }
}

TensorPiece PlannedLayer::taken_piece(const NeuronRun& run, const TensorId& id) const {
  const bool is_down = id.part == TensorPart::kDown;
  return {.source = tensor_name(config_, id),
          .factor = is_down ? run.down : run.in,
          .dim = is_down ? 1 : 0,
          .taken = run.neurons,
          .model = run.model};
}

FeedForwardWeights PlannedLayer::remade(const NeuronRun& run, const Models& models) const {
  TensorAssembly assembly("convert", {[&](const TensorPiece& piece) { return models(piece.model, piece.source); }},
                          TensorAssembly::Rounding::kNotMeasured);
  const auto width = static_cast<int64_t>(run.neurons->size());
  FeedForwardWeights taken;
  for (const FfnPart& part : parts_of(config_)) {
    taken.*part.weights = assembly.assemble(
        {"taken", part.shape(width, config_.hidden_size), {taken_piece(run, part.of(layer_, kNoExpert))}}, at::kFloat);
  }
  FeedForwardWeights made = run.remake(taken);
  for (const FfnPart& part : parts_of(config_)) {
    at::Tensor& weights = made.*part.weights;
    MOE_CHECK(weights.defined() && weights.scalar_type() == at::kFloat &&
                  weights.sizes() == at::IntArrayRef(part.shape(width, config_.hidden_size)),
              "remade neurons of ", tensor_name(config_, part.of(layer_, kNoExpert)),
              " are not of the shape of what was taken");
    weights = weights.contiguous();
  }
  return made;
}

TensorAssembly PlannedLayer::assembly(const Models& models) const {
  // The tensors of an expert come one after the other, so that its remade runs are kept until those of the next come.
  const auto last = std::make_shared<std::pair<int64_t, FeedForwardWeights>>();
  const auto get = [this, &models, last](const TensorPiece& piece) {
    if (piece.model >= 0) return models(piece.model, piece.source);
    if (last->first != piece.model) *last = {piece.model, remade(remade_.at(-piece.model - 1), models)};
    for (const FfnPart& part : parts_of(config_)) {
      if (tensor_name(config_, part.of(layer_, kNoExpert)) == piece.source) return last->second.*part.weights;
    }
    throw Internal("an FFN has no " + piece.source);
  };
  return {"convert", {get}, TensorAssembly::Rounding::kNotMeasured};
}

at::Tensor PlannedLayer::tensor(const std::string& name, at::ScalarType type, const Models& models) const {
  return assembly(models).assemble(tensors_.at(name), type);
}

std::vector<at::Tensor> PlannedLayer::routed_downs(at::ScalarType type, const Models& models) const {
  std::vector<PiecedTensor> tensors;
  std::vector<at::Tensor> downs;
  for (size_t e = 0; e < plan_.experts.size(); ++e) {
    tensors.push_back(described({TensorPart::kDown, layer_, static_cast<int64_t>(e)}));
    downs.push_back(at::empty(tensors.back().shape, type));
  }
  assembly(models).assemble_together(tensors, downs);
  return downs;
}

MoeWeights PlannedLayer::mixture(const Models& models) const {
  const auto experts = static_cast<int64_t>(plan_.experts.size());
  const int64_t hidden = config_.hidden_size, width = *std::max_element(widths_.experts.begin(), widths_.experts.end()),
                rows = config_.is_gated ? 2 * width : width;
  const bool is_even =
      std::all_of(widths_.experts.begin(), widths_.experts.end(), [width](int64_t other) { return other == width; });
  const auto stack = [is_even](at::IntArrayRef shape) {
    return is_even ? at::empty(shape, at::kFloat) : at::zeros(shape, at::kFloat);
  };
  // Filled in place, since they are as large as the FFN.
  MoeWeights weights{.router = {},
                     .gate_up = stack({experts, rows, hidden}),
                     .down = stack({experts, hidden, width}),
                     .shared = std::nullopt};
  if (config_.mlp_bias) weights.gate_up_bias = stack({experts, rows});
  TensorAssembly assembly = this->assembly(models);
  std::vector<PiecedTensor> down_tensors;
  std::vector<at::Tensor> downs;
  for (int64_t e = 0; e < experts; ++e) {
    for (const FfnPart& part : parts_of(config_)) {
      const PiecedTensor& tensor = described(part.of(layer_, e));
      if (part.is_down()) {
        down_tensors.push_back(tensor);
        downs.push_back(weights.down[e].narrow(1, 0, widths_.experts[e]));
        continue;
      }
      // The gate's rows stand first, where there is a gate.
      const int64_t first = part.part == TensorPart::kGate ? 0 : rows - width;
      const at::Tensor& into = part.is_bias ? weights.gate_up_bias : weights.gate_up;
      assembly.assemble_into(tensor, into[e].narrow(0, first, widths_.experts[e]));
    }
  }
  assembly.assemble_together(down_tensors, downs);
  if (widths_.shared > 0) weights.shared = shared_weights(models);
  return weights;
}

FeedForwardWeights PlannedLayer::shared_weights(const Models& models) const {
  TensorAssembly assembly = this->assembly(models);
  FeedForwardWeights shared;
  for (const FfnPart& part : parts_of(config_)) {
    shared.*part.weights = assembly.assemble(described(part.of(layer_, kSharedExpert)), at::kFloat);
  }
  return shared;
}

at::Tensor PlannedLayer::expert_neurons() const {
  if (!is_copy_of_neurons(plan_)) return {};
  const auto widest = static_cast<size_t>(*std::max_element(widths_.experts.begin(), widths_.experts.end()));
  std::vector<at::Tensor> rows;
  for (const ExpertPlan& expert : plan_.experts) {
    std::vector<int32_t> neurons = neurons_in(expert);
    neurons.resize(widest, -1);
    rows.push_back(at::tensor(neurons, at::kInt));
  }
  return at::stack(rows);
}

at::Tensor PlannedLayer::shared_neurons() const {
  if (widths_.shared == 0 || !is_copy_of_neurons(plan_)) return {};
  return at::tensor(neurons_in(plan_.shared), at::kInt);
}

}  // namespace moe
