#include "kernels/view_checks.h"

#include "common/error.h"

namespace moe::kernels {

int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return 4;
    case DType::kBFloat16: return 2;
    case DType::kFloat64: return 8;
  }
  throw InvalidArgument(concat("unknown dtype ", static_cast<int>(dtype)));
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat64: return "float64";
  }
  throw InvalidArgument(concat("unknown dtype ", static_cast<int>(dtype)));
}

DType sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

std::string describe(const char* name, const ConstVectorView& view) {
  return concat(name, " [", view.size, "] ", dtype_name(view.dtype));
}

std::string describe(const char* name, const ConstMatrixView& view) {
  return concat(name, " [", view.rows, ", ", view.cols, "] ", dtype_name(view.dtype));
}

void check_view(const char* op, const char* name, const ConstMatrixView& view) {
  if (view.rows < 0 || view.cols < 0) {
    throw InvalidArgument(concat(op, ": ", describe(name, view), " has a negative size"));
  }
  if (view.rows > 1 && view.stride < view.cols) {
    throw InvalidArgument(concat(op, ": ", describe(name, view), " has rows ", view.stride,
                                 " elements apart, fewer than its columns: rows would overlap"));
  }
  if (view.data == nullptr && view.rows > 0 && view.cols > 0) {
    throw InvalidArgument(concat(op, ": ", describe(name, view), " has no data"));
  }
}

void check_like(const char* op, const char* name, const ConstMatrixView& view, const char* like_name,
                const ConstMatrixView& like) {
  check_view(op, name, view);
  if (view.rows != like.rows || view.cols != like.cols || view.dtype != like.dtype) {
    throw InvalidArgument(
        concat(op, ": ", describe(name, view), " must have the shape and dtype of ", describe(like_name, like)));
  }
}

void check_linear(const char* op, const NamedView& in, const NamedView& weights, const NamedView& out, int64_t groups) {
  for (const NamedView* each : {&in, &weights, &out}) check_view(op, each->name, each->view);
  const ConstMatrixView &x = in.view, &w = weights.view, &y = out.view;
  if (x.rows == y.rows && x.cols == w.cols && w.rows == groups * y.cols && x.dtype == w.dtype && y.dtype == w.dtype)
    return;
  throw InvalidArgument(concat(op, ": shapes disagree: ", describe(in.name, x), ", ", describe(weights.name, w), ", ",
                               describe(out.name, y), "; expected [T, I], ",
                               groups == 1 ? std::string("[O, I]") : concat("[", groups, " groups * O, I]"),
                               ", [T, O] of one dtype"));
}

void check_vector(const char* op, const char* name, const ConstVectorView& view, int64_t size, DType dtype) {
  if (view.size != size || view.dtype != dtype) {
    throw InvalidArgument(
        concat(op, ": ", describe(name, view), "; expected ", describe(name, {nullptr, dtype, size})));
  }
  if (view.data == nullptr && size > 0) {
    throw InvalidArgument(concat(op, ": ", describe(name, view), " has no data"));
  }
}

}  // namespace moe::kernels
