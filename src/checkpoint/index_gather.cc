#include "checkpoint/index_gather.h"

#include <cstring>

#include "common/error.h"

namespace moe {
namespace {

/// Rows that are read together, so that an index is loaded once for all of them.
constexpr int64_t kRows = 4;

/// out[r, i] = in[r, columns[i]] for `Rows` rows.
template <typename Word, int64_t Rows>
void gather_block(const Word* in, int64_t in_stride, const std::vector<int32_t>& columns, Word* out) {
  const auto count = static_cast<int64_t>(columns.size());
  for (int64_t i = 0; i < count; ++i) {
    const Word* const from = in + columns[i];
    for (int64_t r = 0; r < Rows; ++r) out[r * count + i] = from[r * in_stride];
  }
}

template <typename Word>
void gather(const at::Tensor& matrix, const std::vector<IndexList>& picks, std::vector<at::Tensor>& outs) {
  const int64_t rows = matrix.size(0), width = matrix.size(1);
  const auto* const in = static_cast<const Word*>(matrix.const_data_ptr());
  for (int64_t row = 0; row < rows; row += kRows) {
    for (size_t e = 0; e < outs.size(); ++e) {
      const std::vector<int32_t>& columns = *picks[e];
      const auto count = static_cast<int64_t>(columns.size());
      Word* const out = static_cast<Word*>(outs[e].mutable_data_ptr()) + row * count;
      if (row + kRows <= rows) {
        gather_block<Word, kRows>(in + row * width, width, columns, out);
      } else {
        for (int64_t r = row; r < rows; ++r)
          gather_block<Word, 1>(in + r * width, width, columns, out + (r - row) * count);
      }
    }
  }
}

void check_matrices(const at::Tensor& matrix, const at::Tensor& out, int64_t rows, int64_t columns) {
  MOE_CHECK(matrix.is_contiguous() && out.is_contiguous() && out.scalar_type() == matrix.scalar_type() &&
                out.size(0) == rows && out.size(1) == columns,
            "rows and columns are gathered between contiguous matrices of one type, into [", rows, ", ", columns, "]");
}

}  // namespace

void gather_rows(const at::Tensor& matrix_ND, const std::vector<int32_t>& rows, at::Tensor& out_nD) {
  if (matrix_ND.dim() == 1) {
    at::Tensor column = out_nD.unsqueeze(1);
    return gather_rows(matrix_ND.unsqueeze(1), rows, column);
  }
  check_matrices(matrix_ND, out_nD, static_cast<int64_t>(rows.size()), matrix_ND.size(1));
  const size_t bytes = static_cast<size_t>(matrix_ND.size(1)) * matrix_ND.element_size();
  if (bytes == 0) return;  // an empty tensor has no memory
  const auto* const from = static_cast<const std::byte*>(matrix_ND.const_data_ptr());
  auto* to = static_cast<std::byte*>(out_nD.mutable_data_ptr());
  for (const int32_t row : rows) {
    std::memcpy(to, from + static_cast<size_t>(row) * bytes, bytes);
    to += bytes;
  }
}

void gather_columns(const at::Tensor& matrix_DN, const std::vector<IndexList>& picks, std::vector<at::Tensor>& outs) {
  MOE_CHECK(outs.size() == picks.size(), "one matrix per list of columns");
  for (size_t e = 0; e < outs.size(); ++e)
    check_matrices(matrix_DN, outs[e], matrix_DN.size(0), static_cast<int64_t>(picks[e]->size()));
  switch (matrix_DN.element_size()) {
    case 2: return gather<uint16_t>(matrix_DN, picks, outs);
    case 4: return gather<uint32_t>(matrix_DN, picks, outs);
    case 8: return gather<uint64_t>(matrix_DN, picks, outs);
    default: throw Internal(concat("columns of ", matrix_DN.dtype().name()));
  }
}

}  // namespace moe
