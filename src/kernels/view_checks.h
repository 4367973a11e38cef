#pragma once

#include <string>

#include "kernels/views.h"

/// Checks and words about views, shared by the entry points of every op.
namespace moe::kernels {

const char* dtype_name(DType dtype);

/// For messages: "x [3, 4] float32", "weight [4] float32".
std::string describe(const char* name, const ConstMatrixView& view);
std::string describe(const char* name, const ConstVectorView& view);

/// Throws InvalidArgument if a size is negative, the stride is below cols, or data is null though there are elements.
void check_view(const char* op, const char* name, const ConstMatrixView& view);

/// check_view of `view`, which must have the shape and dtype of `like`.
void check_like(const char* op, const char* name, const ConstMatrixView& view, const char* like_name,
                const ConstMatrixView& like);

/// A view under the name that errors give it.
struct NamedView {
  const char* name;
  ConstMatrixView view;
};

/// Throws InvalidArgument with the shapes unless these are the input side [T, I], the weights [groups * O, I] and the
/// output side [T, O] of a linear layer, or of `groups` that lie side by side, all of one dtype. Whichever of the three
/// is being computed.
void check_linear(const char* op, const NamedView& in, const NamedView& weights, const NamedView& out,
                  int64_t groups = 1);

/// Throws InvalidArgument if the size or dtype is another, or data is null though there are elements.
void check_vector(const char* op, const char* name, const ConstVectorView& view, int64_t size, DType dtype);

}  // namespace moe::kernels
