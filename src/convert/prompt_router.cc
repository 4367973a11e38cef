#include "convert/prompt_router.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe {
namespace {

using Row = std::vector<double>;  ///< [D]

double length_of(const Row& row) {
  double sum = 0;
  for (const double value : row) sum += value * value;
  return std::sqrt(sum);
}

/// A row of zeros stays one.
void make_unit(Row& row) {
  const double length = length_of(row);
  for (double& value : row) value = length > 0 ? value / length : 0;
}

/// This rank's prompts, each as one row. [prompts, D] double
at::Tensor prompt_rows(const std::string& mode, const PromptStates& states) {
  const auto prompts = static_cast<int64_t>(states.cu_seqlens.size()) - 1;
  const int64_t width = states.hidden_TD.size(1);
  const at::Tensor hidden_TD = states.hidden_TD.contiguous();
  const float* const hidden = hidden_TD.const_data_ptr<float>();
  at::Tensor rows_PD = at::zeros({prompts, width}, at::kDouble);
  double* row = rows_PD.mutable_data_ptr<double>();
  for (int64_t p = 0; p < prompts; ++p, row += width) {
    const int64_t begin = states.cu_seqlens[p], end = states.cu_seqlens[p + 1];
    for (int64_t t = mode == "hidden" ? end - 1 : begin; t < end; ++t) {
      for (int64_t d = 0; d < width; ++d) row[d] += hidden[t * width + d];
    }
    const double count = mode == "hidden_avg" ? static_cast<double>(end - begin) : 1;
    for (int64_t d = 0; d < width; ++d) row[d] /= count;
  }
  return rows_PD;
}

/// Of `count` rows from `first` on; zeros where there is none.
Row mean_row(const at::Tensor& rows_PD, int64_t first, int64_t count) {
  const int64_t width = rows_PD.size(1);
  Row mean(width, 0);
  const double* value = rows_PD.const_data_ptr<double>() + first * width;
  for (int64_t p = 0; p < count; ++p) {
    for (double& sum : mean) sum += *value++;
  }
  for (double& sum : mean) sum /= static_cast<double>(std::max<int64_t>(1, count));
  return mean;
}

}  // namespace

at::Tensor prompt_router(const std::string& mode, const LayerInputs& inputs, Communicator& world) {
  const v1::FfnExpertsSpec& ffn = inputs.spec.ffn();
  const at::Tensor rows_PD =
      world.all_gather(prompt_rows(mode, *inputs.prompts), "what prompts are in a layer").contiguous();
  if (!rows_PD.isfinite().all().item<bool>()) {
    throw_agreed<InvalidArgument>(concat("convert: layer ", inputs.layer,
                                         ": the states of ffn.prompts are NaN or infinite: the activations overflow "
                                         "float32, as those of a damaged or diverged model do"));
  }
  at::Tensor router_ED = at::empty({ffn.prompts_size(), rows_PD.size(1)}, at::kFloat);
  float* value = router_ED.mutable_data_ptr<float>();
  int64_t first = 0;
  for (int expert = 0; expert < ffn.prompts_size(); ++expert) {
    const int64_t positive = ffn.prompts(expert).positive_size(), negative = ffn.prompts(expert).negative_size();
    Row row = mean_row(rows_PD, first, positive), less = mean_row(rows_PD, first + positive, negative);
    first += positive + negative;
    if (mode == "cheap_embed") {
      make_unit(row);
      make_unit(less);
    }
    const double before = length_of(row);
    for (size_t d = 0; d < row.size(); ++d) row[d] -= less[d];
    if (length_of(row) <= 1e-6 * before) {  // the rounding of the states
      throw_agreed<InvalidArgument>(
          concat("convert: layer ", inputs.layer, ": the prompts of ffn.prompts.", expert,
                 " cancel out: positive and negative ones are the same to the router",
                 mode == "hidden" ? "; it reads the last token, before the first layer that token alone: end them "
                                    "differently, or use options.router hidden_avg"
                                  : ""));
    }
    make_unit(row);
    for (const double coordinate : row) *value++ = static_cast<float>(coordinate);
  }
  return router_ED;
}

}  // namespace moe
