#include "convert/principal_directions.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "comm/agreement.h"
#include "model/ops.h"

// n rows, D dimensions. ops::linear makes a sum of doubles in one order, whatever the threads.
namespace moe {
namespace {

/// A variance below this share of the largest is rounding, and so is what lies this far below the rows' own lengths.
constexpr double kRounding = 1e-12;

/// While there is one, LAPACK works on one thread: its bits depend on their number.
class OneThread {
 public:
  OneThread() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

/// Times n; of rows in double.
at::Tensor covariance(const at::Tensor& rows_nD, bool across_mean) {
  const int64_t rows = rows_nD.size(0);
  const at::Tensor mean_1D =
      ops::linear(at::ones({1, rows}, at::kDouble), rows_nD.t().contiguous()) / static_cast<double>(rows);
  at::Tensor centred = rows_nD - mean_1D;
  if (across_mean) {
    const at::Tensor squared_11 = ops::linear(mean_1D, mean_1D).clamp_min(1e-300);
    centred = centred - ops::linear(centred, mean_1D) / squared_11 * mean_1D;
  }
  const at::Tensor columns_Dn = centred.t().contiguous();
  return ops::linear(columns_Dn, columns_Dn);
}

/// The `count` eigenvectors of the largest values, these falling and in front of them. [count, 1 + D] double
at::Tensor largest_eigenvectors(const at::Tensor& matrix_DD, int64_t count) {
  const OneThread one_thread;
  const auto [values_D, vectors_DD] = at::linalg_eigh(matrix_DD);  // rising; vectors are columns
  const int64_t first = matrix_DD.size(0) - count;
  const at::Tensor rows = vectors_DD.narrow(1, first, count).t().flip(0),
                   greatest = rows.gather(1, rows.abs().argmax(1, /*keepdim=*/true));
  return at::cat({values_D.narrow(0, first, count).flip(0).unsqueeze(1), at::where(greatest < 0, -rows, rows)}, 1);
}

}  // namespace

at::Tensor principal_directions(const at::Tensor& rows_nD, int64_t most, bool across_mean, Communicator& world) {
  const int64_t width = rows_nD.size(1), count = std::min(most, width);
  at::Tensor found = at::empty({count, 1 + width}, at::kDouble);
  agree(world, "principal directions", [&] {
    if (world.rank() != 0) return;
    const at::Tensor rows = rows_nD.to(at::kDouble);
    found.copy_(largest_eigenvectors(covariance(rows, across_mean), count));
    at::Tensor variances = found.select(1, 0);
    variances.masked_fill_(variances < kRounding * kRounding * rows.square().sum(), 0);
  });
  world.broadcast(found, 0, "principal directions");
  const at::Tensor variances = found.select(1, 0);
  const auto directions = variances.gt(kRounding * variances[0].item<double>()).sum().item<int64_t>();
  return found.narrow(0, 0, directions).narrow(1, 1, width).to(at::kFloat).contiguous();
}

}  // namespace moe
