#include "export/tensor_assembly.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/error.h"

namespace moe {
namespace {

/// Values that are rounded and compared at a time.
constexpr int64_t kBlock = int64_t{1} << 18;

/// Whether every value of `from` is one of `to` too.
bool is_widening(at::ScalarType from, at::ScalarType to) {
  if (from == to || to == at::kDouble) return true;
  return to == at::kFloat && (from == at::kBFloat16 || from == at::kHalf);
}

at::Tensor region_of(const at::Tensor& out, const ExportPiece& piece, const at::Tensor& native) {
  const at::Tensor slice = piece.place.index < 0 ? out : out.select(0, piece.place.index);
  const at::Tensor rows = slice.narrow(0, piece.place.row, native.size(0));
  return native.dim() < 2 ? rows : rows.narrow(1, 0, native.size(1));
}

}  // namespace

bool is_power_of_two(double factor) {
  int exponent = 0;
  return std::abs(std::frexp(factor, &exponent)) == 0.5;
}

ExportTensor export_tensor(const StockTensor& tensor) {
  ExportTensor written{tensor.name, tensor.shape, {}, tensor.fill};
  for (const StockPiece& piece : tensor.pieces) written.pieces.push_back({.place = piece, .neurons = {}});
  return written;
}

at::Tensor TensorAssembly::assemble(const ExportTensor& tensor, at::ScalarType dtype) {
  at::Tensor out;
  for (const ExportPiece& piece : tensor.pieces) {
    const at::Tensor native = source_.tensor(piece.place.native);
    const bool is_itself =
        native.scalar_type() == dtype && native.sizes() == at::IntArrayRef(tensor.shape) && piece.place.factor == 1;
    if (is_itself && !piece.neurons.defined()) return native;  // as it is mapped
    if (!out.defined()) out = at::full(tensor.shape, tensor.fill, at::TensorOptions(dtype));
    if (piece.neurons.defined()) {
      at::Tensor placed = native;
      if (native.scalar_type() != dtype || piece.place.factor != 1) {
        placed = at::empty(native.sizes(), out.options());
        put(native, piece.place.factor, placed);
      }
      out.index_copy_(piece.neuron_dim, piece.neurons, placed);
    } else {
      put(native, piece.place.factor, region_of(out, piece, native));
    }
    source_.release(piece.place.native);
  }
  return out.defined() ? out : at::full(tensor.shape, tensor.fill, at::TensorOptions(dtype));
}

void TensorAssembly::put(const at::Tensor& native, double factor, at::Tensor into) {
  const bool is_wide = is_widening(native.scalar_type(), into.scalar_type());
  if (is_wide && factor == 1) {
    into.copy_(native);
    return;
  }
  const int64_t columns = std::max<int64_t>(1, native.numel() / std::max<int64_t>(1, native.size(0)));
  const int64_t step = std::max<int64_t>(1, kBlock / columns);
  for (int64_t row = 0; row < native.size(0); row += step) {
    const int64_t rows = std::min(step, native.size(0) - row);
    const at::Tensor exact = native.narrow(0, row, rows).to(at::kDouble) * factor;
    at::Tensor target = into.narrow(0, row, rows);
    target.copy_(exact);
    if (!at::isfinite(target).all().item<bool>()) {
      throw InvalidArgument(concat("export: a value of up to ", exact.abs().max().item<double>(), " is too large for ",
                                   c10::toString(into.scalar_type()), "; choose dtype float32"));
    }
    if (is_wide && is_power_of_two(factor)) continue;
    const at::Tensor written = target.to(at::kDouble);
    const at::Tensor error = at::where(exact.eq(0), at::zeros_like(exact), ((written - exact) / exact).abs());
    max_relative_rounding_ = std::max(max_relative_rounding_, error.max().item<double>());
  }
}

}  // namespace moe
