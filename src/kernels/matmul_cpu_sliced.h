#pragma once

#include "kernels/backend.h"

namespace moe::kernels {

/// Whether matmul_sliced takes this product: fp32, the forward form (a row by row, b transposed), an inner dimension
/// above 288, on a processor where oneDNN would sum it in one run. Depends on the shape of b alone.
bool is_for_slices(const Product& product);

/// c = a b, its inner dimension summed in slices of at most 128 and the slices added in order: a sum's error grows with
/// the length of its runs, and oneDNN makes one run of all. Tile by tile, so that the slices' sums stay in the cache. A
/// row's bits do not depend on the other rows.
///
/// Numerics  logits of a 135M model (inner dimensions 576 and 1536) against float64, largest and mean error as
///           multiples of those of transformers in fp32 (MKL), 8 x 128 random ids: one run 4.4 and 2.0 (128 ids),
///           slices of 288 2.5 and 1.07, of 192 1.9 and 1.04, of 128 1.4 and 0.81.
/// Cost      against one run, 2 threads: 8-14 % more at 500 rows, 0-11 % at 128, 30 % at one; slices of 288 3-8 %.
void matmul_sliced(const Product& product);

}  // namespace moe::kernels
