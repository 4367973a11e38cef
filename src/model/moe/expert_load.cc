#include "model/moe/expert_load.h"

#include "common/error.h"

namespace moe {
namespace {

std::vector<std::vector<int64_t>> rows_of_layers(const at::Tensor& counts_LE, const std::vector<int64_t>& layers,
                                                 int64_t num_layers) {
  const at::Tensor read_LE = counts_LE.cpu().contiguous();
  MOE_CHECK(read_LE.size(0) == static_cast<int64_t>(layers.size()), "one row of counts per MoE layer");
  const int64_t* counts = read_LE.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> load(num_layers);
  for (const int64_t layer : layers) {
    load[layer].assign(counts, counts + read_LE.size(1));
    counts += read_LE.size(1);
  }
  return load;
}

}  // namespace

at::Tensor stacked_counts(const std::vector<RouterStats>& router) {
  std::vector<at::Tensor> counts;
  for (const RouterStats& stats : router) counts.push_back(stats.tokens_per_expert_E);
  return at::stack(counts);
}

std::vector<std::vector<int64_t>> load_by_layer(const ModelConfig& config, const at::Tensor& counts_LE) {
  if (!counts_LE.defined()) return {};
  return rows_of_layers(counts_LE, config.moe->mixture_layers(), config.num_layers);
}

std::vector<std::vector<int64_t>> attention_load_by_layer(const ModelConfig& config, const at::Tensor& counts_LE) {
  if (!counts_LE.defined()) return {};
  return rows_of_layers(counts_LE, config.moe->attention->expert_layers(), config.num_layers);
}

}  // namespace moe
