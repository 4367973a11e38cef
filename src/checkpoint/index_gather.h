#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/tensor_piece.h"

/// Copies rows or columns of a matrix of any weight type by number, bits unchanged: how the neurons of experts are cut
/// out of a dense FFN. On one thread, as fast as memory gives: LibTorch's index_select of columns takes a pass over the
/// matrix per expert. Called by TensorAssembly.
namespace moe {

/// Rows `rows` of a matrix [N, D], into `out` [n, D] of the same type; both contiguous. A vector [N] is a matrix of one
/// column.
void gather_rows(const at::Tensor& matrix_ND, const std::vector<int32_t>& rows, at::Tensor& out_nD);

/// Columns of a matrix [D, N] for several outputs in one pass: outs[e] [D, n_e] takes the columns picks[e].
void gather_columns(const at::Tensor& matrix_DN, const std::vector<IndexList>& picks, std::vector<at::Tensor>& outs);

}  // namespace moe
