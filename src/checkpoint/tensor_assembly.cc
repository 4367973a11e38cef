#include "checkpoint/tensor_assembly.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/index_gather.h"
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

at::Tensor as_tensor(const IndexList& indices) {
  return at::tensor(*indices, at::kInt).to(at::kLong);
}

at::Tensor slice_of(const at::Tensor& target, const TensorPiece& piece) {
  return piece.index < 0 ? target : target.select(0, piece.index);
}

/// Where values of this shape lie in the target of a piece without `placed`.
at::Tensor region_of(const at::Tensor& target, const TensorPiece& piece, at::IntArrayRef shape) {
  at::Tensor region = slice_of(target, piece);
  for (int64_t dim = 0; dim < static_cast<int64_t>(shape.size()); ++dim)
    region = region.narrow(dim, dim == piece.dim ? piece.start : 0, shape[dim]);
  return region;
}

/// The part of the target whose rows or columns a piece places by number: as wide as values of this shape elsewhere.
at::Tensor field_of(const at::Tensor& target, const TensorPiece& piece, at::IntArrayRef shape) {
  at::Tensor field = slice_of(target, piece);
  for (int64_t dim = 0; dim < static_cast<int64_t>(shape.size()); ++dim) {
    if (dim != piece.dim) field = field.narrow(dim, 0, shape[dim]);
  }
  return field;
}

/// The rows or columns that the piece takes, in a tensor of their own.
at::Tensor taken_of(const at::Tensor& source, const TensorPiece& piece) {
  std::vector<int64_t> shape = source.sizes().vec();
  shape[piece.dim] = static_cast<int64_t>(piece.taken->size());
  std::vector<at::Tensor> outs{at::empty(shape, source.options())};
  if (piece.dim == 0) {
    gather_rows(source, *piece.taken, outs.front());
  } else {
    gather_columns(source, {piece.taken}, outs);
  }
  return outs.front();
}

/// Whether the tensor is nothing but rows, or columns, that are taken of one source.
bool is_pick(const PiecedTensor& tensor) {
  if (tensor.pieces.size() != 1) return false;
  const TensorPiece& piece = tensor.pieces.front();
  return piece.taken != nullptr && piece.placed == nullptr && piece.index < 0 && piece.start == 0 &&
         piece.factor == 1 && !piece.adds && tensor.shape[piece.dim] == static_cast<int64_t>(piece.taken->size());
}

bool is_column_pick_of(const PiecedTensor& tensor, const TensorPiece& first) {
  if (!is_pick(tensor)) return false;
  const TensorPiece& piece = tensor.pieces.front();
  return piece.dim == 1 && piece.source == first.source && piece.model == first.model;
}

}  // namespace

bool is_power_of_two(double factor) {
  int exponent = 0;
  return std::abs(std::frexp(factor, &exponent)) == 0.5;
}

at::Tensor find_piece(const at::Tensor& target, const TensorPiece& piece, at::IntArrayRef source_shape) {
  MOE_CHECK(piece.taken == nullptr && !piece.adds, "a part of ", piece.source, " cannot be found in a whole");
  const at::Tensor part = piece.placed != nullptr
                              ? field_of(target, piece, source_shape).index_select(piece.dim, as_tensor(piece.placed))
                              : region_of(target, piece, source_shape);
  return piece.factor == 1 ? part : part / piece.factor;
}

at::Tensor TensorAssembly::assemble(const PiecedTensor& tensor, at::ScalarType dtype) {
  at::Tensor first;
  if (!tensor.pieces.empty()) {
    const TensorPiece& piece = tensor.pieces.front();
    first = sources_.get(piece);
    const bool is_itself = first.scalar_type() == dtype && first.sizes() == at::IntArrayRef(tensor.shape) &&
                           piece.factor == 1 && piece.taken == nullptr && piece.placed == nullptr;
    if (is_itself && tensor.pieces.size() == 1) return first;  // as it is mapped
  }
  at::Tensor out = at::empty(tensor.shape, at::TensorOptions(dtype));
  fill(tensor, first, out);
  return out;
}

void TensorAssembly::assemble_into(const PiecedTensor& tensor, at::Tensor out) {
  fill(tensor, tensor.pieces.empty() ? at::Tensor() : sources_.get(tensor.pieces.front()), out);
}

void TensorAssembly::fill(const PiecedTensor& tensor, const at::Tensor& first, at::Tensor& out) {
  if (is_pick(tensor)) {
    const TensorPiece& piece = tensor.pieces.front();
    if (first.scalar_type() == out.scalar_type() && out.is_contiguous() && piece.dim == 0) {
      gather_rows(first, *piece.taken, out);
    } else {
      put(taken_of(first, piece), 1, out);
    }
    release(piece);
    return;
  }
  const bool is_sum =
      std::any_of(tensor.pieces.begin(), tensor.pieces.end(), [](const TensorPiece& piece) { return piece.adds; });
  at::Tensor whole = is_sum ? at::empty(tensor.shape, at::kDouble) : out;
  whole.fill_(tensor.fill);
  for (const TensorPiece& piece : tensor.pieces) {
    const at::Tensor source = &piece == &tensor.pieces.front() ? first : sources_.get(piece);
    place(piece, piece.taken != nullptr ? taken_of(source, piece) : source, whole);
    release(piece);
  }
  if (is_sum) put(whole, 1, out);
}

void TensorAssembly::assemble_together(const std::vector<PiecedTensor>& tensors, std::vector<at::Tensor>& outs) {
  MOE_CHECK(tensors.size() == outs.size(), "one tensor to fill for each that is described");
  if (tensors.empty()) return;
  if (!tensors.front().pieces.empty()) {
    const TensorPiece& first = tensors.front().pieces.front();
    std::vector<IndexList> picks;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (is_column_pick_of(tensors[i], first) && outs[i].is_contiguous())
        picks.push_back(tensors[i].pieces.front().taken);
    }
    if (picks.size() == tensors.size()) {
      const at::Tensor source = sources_.get(first);
      if (source.scalar_type() == outs.front().scalar_type()) {
        gather_columns(source, picks, outs);
      } else {
        std::vector<at::Tensor> taken;
        for (const at::Tensor& out : outs) taken.push_back(at::empty(out.sizes(), source.options()));
        gather_columns(source, picks, taken);
        for (size_t i = 0; i < outs.size(); ++i) put(taken[i], 1, outs[i]);
      }
      release(first);
      return;
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) assemble_into(tensors[i], outs[i]);
}

void TensorAssembly::place(const TensorPiece& piece, const at::Tensor& source, at::Tensor& out) {
  if (piece.adds) {
    const at::Tensor values = source.to(at::kDouble) * piece.factor;
    if (piece.placed != nullptr) {
      field_of(out, piece, source.sizes()).index_add_(piece.dim, as_tensor(piece.placed), values);
    } else {
      region_of(out, piece, source.sizes()).add_(values);
    }
    return;
  }
  if (piece.placed == nullptr) return put(source, piece.factor, region_of(out, piece, source.sizes()));
  at::Tensor values = source;
  if (source.scalar_type() != out.scalar_type() || piece.factor != 1) {
    values = at::empty(source.sizes(), out.options());
    put(source, piece.factor, values);
  }
  field_of(out, piece, source.sizes()).index_copy_(piece.dim, as_tensor(piece.placed), values);
}

void TensorAssembly::put(const at::Tensor& values, double factor, at::Tensor into) {
  const bool is_wide = is_widening(values.scalar_type(), into.scalar_type());
  if (factor == 1 && (is_wide || !measures_rounding_)) {
    into.copy_(values);
    return;
  }
  const int64_t columns = std::max<int64_t>(1, values.numel() / std::max<int64_t>(1, values.size(0)));
  const int64_t step = std::max<int64_t>(1, kBlock / columns);
  for (int64_t row = 0; row < values.size(0); row += step) {
    const int64_t rows = std::min(step, values.size(0) - row);
    const at::Tensor exact = values.narrow(0, row, rows).to(at::kDouble) * factor;
    at::Tensor target = into.narrow(0, row, rows);
    target.copy_(exact);
    if (!at::isfinite(target).all().item<bool>()) {
      throw InvalidArgument(concat(work_, ": a value of up to ", exact.abs().max().item<double>(), " is too large for ",
                                   c10::toString(into.scalar_type()), "; choose dtype float32"));
    }
    if (!measures_rounding_ || (is_wide && is_power_of_two(factor))) continue;
    const at::Tensor written = target.to(at::kDouble);
    const at::Tensor error = at::where(exact.eq(0), at::zeros_like(exact), ((written - exact) / exact).abs());
    max_relative_rounding_ = std::max(max_relative_rounding_, error.max().item<double>());
  }
}

}  // namespace moe
