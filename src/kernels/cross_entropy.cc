#include "kernels/cross_entropy.h"

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

void check_labels(const char* op, const ConstMatrixView& logits, const int64_t* labels) {
  if (logits.rows > 0 && (logits.cols == 0 || labels == nullptr)) {
    throw InvalidArgument(concat(op, ": ", describe("logits", logits), labels == nullptr ? " without labels" : ""));
  }
}

}  // namespace

void cross_entropy(ConstMatrixView logits, const int64_t* labels, int64_t ignored, VectorView losses,
                   VectorView log_sums, Queue queue) {
  check_view("cross_entropy", "logits", logits);
  check_labels("cross_entropy", logits, labels);
  check_vector("cross_entropy", "losses", losses, logits.rows, sum_dtype(logits.dtype));
  check_vector("cross_entropy", "log_sums", log_sums, logits.rows, sum_dtype(logits.dtype));
  run(&Backend::cross_entropy, "cross_entropy", {logits, labels, ignored, losses, log_sums}, queue);
}

void cross_entropy_gradient(ConstVectorView dlosses, ConstMatrixView logits, ConstVectorView log_sums,
                            const int64_t* labels, int64_t ignored, MatrixView dlogits, Queue queue) {
  check_view("cross_entropy_gradient", "logits", logits);
  check_labels("cross_entropy_gradient", logits, labels);
  check_vector("cross_entropy_gradient", "dlosses", dlosses, logits.rows, sum_dtype(logits.dtype));
  check_vector("cross_entropy_gradient", "log_sums", log_sums, logits.rows, sum_dtype(logits.dtype));
  check_like("cross_entropy_gradient", "dlogits", dlogits, "logits", logits);
  run(&Backend::cross_entropy_gradient, "cross_entropy_gradient", {dlosses, logits, log_sums, labels, ignored, dlogits},
      queue);
}

}  // namespace moe::kernels
