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

/// Throws InvalidArgument if the size or dtype is another, or data is null though there are elements.
void check_vector(const char* op, const char* name, const ConstVectorView& view, int64_t size, DType dtype);

}  // namespace moe::kernels
