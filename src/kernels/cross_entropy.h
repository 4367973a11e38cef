#pragma once

#include <cstdint>

#include "kernels/views.h"

/// The loss of rows of logits and its gradient. T rows (may be 0), V vocabulary. Threads and async as in rows.h.
namespace moe::kernels {

/// losses = log_sum - logits[label], log_sum = log sum exp of the row; both 0 where the label is `ignored`. No
/// exponential overflows, whatever the logits.
///
/// Shapes   logits [T, V], labels [T] int64, losses, log_sums [T] of sum_dtype.
/// Throws   InvalidArgument if shapes or dtypes disagree, and on CPU if a label is neither `ignored` nor in [0, V).
void cross_entropy(ConstMatrixView logits, const int64_t* labels, int64_t ignored, VectorView losses,
                   VectorView log_sums, Queue queue = {});

/// dlogits = (softmax(logits) - one at the label) * dloss of each row, 0 for an ignored one; dlogits may be the logits
/// themselves. `labels` as the forward took them.
void cross_entropy_gradient(ConstVectorView dlosses, ConstMatrixView logits, ConstVectorView log_sums,
                            const int64_t* labels, int64_t ignored, MatrixView dlogits, Queue queue = {});

}  // namespace moe::kernels
