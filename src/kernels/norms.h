#pragma once

#include "kernels/views.h"

/// Norms of rows and their gradients. T rows (may be 0), D hidden. Dtypes, threads, async and errors as in rows.h: one
/// dtype for x, weights and results, mean and inverse [T] in sum_dtype; sums within a row run over 16 lanes (on CUDA
/// over the threads of a block) in a fixed order, those over rows (of the weights' gradients) as in rows.h.
namespace moe::kernels {

/// y = weight * (x * inverse), inverse = 1 / sqrt(mean(x^2) + eps) of each row. x, y [T, D]; weight [D]; inverse [T].
/// Source   Zhang & Sennrich 2019, arXiv:1910.07467.
void rms_norm(ConstMatrixView x, ConstVectorView weight, double eps, MatrixView y, VectorView inverse,
              Queue queue = {});
/// dweight [D]; without data: not wanted.
void rms_norm_gradient(ConstMatrixView dy, ConstMatrixView x, ConstVectorView weight, ConstVectorView inverse,
                       MatrixView dx, VectorView dweight, Queue queue = {});

/// y = weight * ((x - mean) * inverse) + bias, inverse = 1 / sqrt(variance + eps) of each row. weight, bias [D].
/// Source   Ba et al. 2016, arXiv:1607.06450.
void layer_norm(ConstMatrixView x, ConstVectorView weight, ConstVectorView bias, double eps, MatrixView y,
                VectorView mean, VectorView inverse, Queue queue = {});
/// dweight_dbias [2 D]: the weight's gradient, then the bias's; without data: not wanted.
void layer_norm_gradient(ConstMatrixView dy, ConstMatrixView x, ConstVectorView weight, ConstVectorView mean,
                         ConstVectorView inverse, MatrixView dx, VectorView dweight_dbias, Queue queue = {});

}  // namespace moe::kernels
