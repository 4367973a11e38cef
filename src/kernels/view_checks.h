#pragma once

#include <string>

#include "kernels/views.h"

/// Checks and words about views, shared by the entry points of every op.
namespace moe::kernels {

const char* dtype_name(DType dtype);

/// For messages: "x [3, 4] float32".
std::string describe(const char* name, const ConstMatrixView& view);

/// Throws InvalidArgument if a size is negative, the stride is below cols, or data is null though there are elements.
void check_view(const char* op, const char* name, const ConstMatrixView& view);

}  // namespace moe::kernels
