#include "checkpoint/stock_view.h"

#include <algorithm>
#include <utility>

#include "checkpoint/tensor_assembly.h"
#include "common/error.h"
#include "model/stock/stock_layouts.h"

namespace moe {
namespace {

/// A gate smaller than this is constant: sigmoid(gate . x) is 0.5 in fp32.
constexpr double kNothing = 1e-12;

/// NaN is not.
bool is_within(const at::Tensor& values, double largest) {
  return values.numel() == 0 || values.abs().max().item<double>() <= largest;
}

}  // namespace

StockView::StockView(const ModelConfig& config)
    : form_(stored_form(config)),
      layout_(config.stock_layout),
      tensors_(stock_layouts().at(layout_).tensors(config, form_)) {
  for (TensorSpec& spec : logical_tensor_specs(config)) logical_.emplace(spec.name, std::move(spec));
  index_pieces();
}

void StockView::index_pieces() {
  places_.clear();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    for (size_t j = 0; j < tensors_[i].pieces.size(); ++j) places_.emplace(tensors_[i].pieces[j].source, Place{i, j});
  }
}

const std::string& StockView::stored_name(const std::string& native) const {
  const auto place = places_.find(native);
  return place == places_.end() ? native : tensors_[place->second.tensor].name;
}

at::Tensor StockView::native_part(const std::string& native, const at::Tensor& stored) const {
  const auto place = places_.find(native);
  if (place == places_.end()) return stored;
  return find_piece(stored, tensors_[place->second.tensor].pieces[place->second.piece], logical_.at(native).shape);
}

void StockView::check_constants(const Reader& read, const std::string& where) const {
  for (const PiecedTensor& tensor : tensors_) {
    if (!tensor.pieces.empty()) continue;
    if (!is_within(read(tensor.name), kNothing)) {
      throw InvalidArgument(concat(where, ": ", tensor.name, " was learned; only a ", layout_,
                                   " model in which it is constant (at most 1e-12) is supported"));
    }
  }
}

bool StockView::are_within(const Reader& read, TensorPart part, int64_t expert, double largest) const {
  bool is_seen = false;
  for (const PiecedTensor& tensor : tensors_) {
    if (tensor.pieces.empty()) continue;
    const TensorId& id = logical_.at(tensor.pieces.front().source).id;
    if (id.part != part || id.expert != expert) continue;
    is_seen = true;
    if (!is_within(read(tensor.name), largest)) return false;
  }
  return is_seen;
}

bool StockView::is_shared_expert_zero(const Reader& read) const {
  return are_within(read, TensorPart::kDown, kSharedExpert, 0);
}

bool StockView::is_shared_gate_constant(const Reader& read) const {
  return are_within(read, TensorPart::kSharedGate, kNoExpert, kNothing);
}

bool StockView::is_selection_bias_zero(const Reader& read) const {
  return are_within(read, TensorPart::kSelectionBias, kNoExpert, 0);
}

void StockView::lay_out(const ModelConfig& config) {
  tensors_ = stock_layouts().at(layout_).tensors(config, form_);
  index_pieces();
}

void StockView::drop_shared_expert(ModelConfig& config) {
  std::fill(config.moe->shared_widths.begin(), config.moe->shared_widths.end(), 0);
  drop_shared_gate(config);
}

void StockView::drop_shared_gate(ModelConfig& config) {
  config.moe->shared_gate = "none";
  lay_out(config);
}

void StockView::drop_selection_bias(ModelConfig& config) {
  config.moe->has_selection_bias = false;
  lay_out(config);
}

}  // namespace moe
