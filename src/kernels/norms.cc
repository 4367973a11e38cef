#include "kernels/norms.h"

#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {

void rms_norm(ConstMatrixView x, ConstVectorView weight, double eps, MatrixView y, VectorView inverse, Queue queue) {
  check_view("rms_norm", "x", x);
  check_vector("rms_norm", "weight", weight, x.cols, x.dtype);
  check_like("rms_norm", "y", y, "x", x);
  check_vector("rms_norm", "inverse", inverse, x.rows, sum_dtype(x.dtype));
  run(&Backend::rms_norm, "rms_norm", {x, weight, eps, y, inverse}, queue);
}

void rms_norm_gradient(ConstMatrixView dy, ConstMatrixView x, ConstVectorView weight, ConstVectorView inverse,
                       MatrixView dx, VectorView dweight, Queue queue) {
  check_view("rms_norm_gradient", "x", x);
  check_like("rms_norm_gradient", "dy", dy, "x", x);
  check_vector("rms_norm_gradient", "weight", weight, x.cols, x.dtype);
  check_vector("rms_norm_gradient", "inverse", inverse, x.rows, sum_dtype(x.dtype));
  check_like("rms_norm_gradient", "dx", dx, "x", x);
  if (dweight.data != nullptr) check_vector("rms_norm_gradient", "dweight", dweight, x.cols, x.dtype);
  run(&Backend::rms_norm_gradient, "rms_norm_gradient", {dy, x, weight, inverse, dx, dweight}, queue);
}

void layer_norm(ConstMatrixView x, ConstVectorView weight, ConstVectorView bias, double eps, MatrixView y,
                VectorView mean, VectorView inverse, Queue queue) {
  check_view("layer_norm", "x", x);
  check_vector("layer_norm", "weight", weight, x.cols, x.dtype);
  check_vector("layer_norm", "bias", bias, x.cols, x.dtype);
  check_like("layer_norm", "y", y, "x", x);
  check_vector("layer_norm", "mean", mean, x.rows, sum_dtype(x.dtype));
  check_vector("layer_norm", "inverse", inverse, x.rows, sum_dtype(x.dtype));
  run(&Backend::layer_norm, "layer_norm", {x, weight, bias, eps, y, mean, inverse}, queue);
}

void layer_norm_gradient(ConstMatrixView dy, ConstMatrixView x, ConstVectorView weight, ConstVectorView mean,
                         ConstVectorView inverse, MatrixView dx, VectorView dweight_dbias, Queue queue) {
  check_view("layer_norm_gradient", "x", x);
  check_like("layer_norm_gradient", "dy", dy, "x", x);
  check_vector("layer_norm_gradient", "weight", weight, x.cols, x.dtype);
  check_vector("layer_norm_gradient", "mean", mean, x.rows, sum_dtype(x.dtype));
  check_vector("layer_norm_gradient", "inverse", inverse, x.rows, sum_dtype(x.dtype));
  check_like("layer_norm_gradient", "dx", dx, "x", x);
  if (dweight_dbias.data != nullptr)
    check_vector("layer_norm_gradient", "dweight_dbias", dweight_dbias, 2 * x.cols, x.dtype);
  run(&Backend::layer_norm_gradient, "layer_norm_gradient", {dy, x, weight, mean, inverse, dx, dweight_dbias}, queue);
}

}  // namespace moe::kernels
