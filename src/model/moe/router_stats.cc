#include "model/moe/router_stats.h"

namespace moe {
namespace {

/// How often each id of [0, count) is there. Not at::bincount, which reads the largest back from the device.
at::Tensor count_ids(const at::Tensor& ids, int64_t count) {
  const at::Tensor flat = ids.flatten();
  return at::zeros({count}, flat.options()).scatter_add_(0, flat, at::ones_like(flat));
}

}  // namespace

RouterStats stats_of(const Routing& routing, bool keeps_routing) {
  RouterStats stats{count_ids(routing.expert_ids_TK, routing.probabilities_TE.size(1)),
                    routing.probabilities_TE.sum(0)};
  if (keeps_routing) stats.routing = routing;
  return stats;
}

void measure(const Routing& routing, const RouterMeasures& names, LayerStatistics* statistics) {
  if (statistics == nullptr) return;
  const at::Tensor p_TE = routing.probabilities_TE.detach();
  statistics->add(names.entropy, at::special_entr(p_TE).sum(at::kDouble), p_TE.size(0));
  statistics->add(names.top_probability, p_TE.amax(1).sum(at::kDouble), p_TE.size(0));
}

}  // namespace moe
