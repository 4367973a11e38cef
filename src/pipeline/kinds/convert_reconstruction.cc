#include "pipeline/kinds/convert_reconstruction.h"

#include "common/error.h"

namespace moe {

void fill_reconstruction(v1::ReconstructionSpec& reconstruction) {
  if (!reconstruction.has_learning_rate()) reconstruction.set_learning_rate(1e-4);
  if (!reconstruction.has_batch_tokens()) reconstruction.set_batch_tokens(1024);
  if (!reconstruction.has_parameters()) reconstruction.set_parameters("all");
}

void check_reconstruction(const v1::ConvertSpec& effective, const FieldChecks& checks) {
  const v1::ReconstructionSpec& reconstruction = effective.reconstruction();
  if (reconstruction.steps() < 1)
    checks.add("steps", concat("must be at least 1 (", reconstruction.steps(), "); it has no default"));
  checks.positive("learning_rate", true, reconstruction.learning_rate());
  checks.at_least("batch_tokens", true, reconstruction.batch_tokens(), 1);
  checks.choice("parameters", true, reconstruction.parameters(), {"all", "experts", "router"});
  const bool has_gate = effective.ffn().shared_gate() != "none";
  if (reconstruction.parameters() == "router" && !has_gate &&
      is_weightless(effective.router(), effective.ffn().top_k())) {
    checks.add("parameters", concat("router trains nothing: with router.topk_norm ", effective.router().topk_norm(),
                                    " and ffn.top_k ", effective.ffn().top_k(),
                                    " every chosen expert has the weight 1 whatever the router says; use experts, or "
                                    "router.topk_norm straight_through"));
  }
}

bool is_weightless(const v1::RouterSpec& router, int top_k) {
  return router.topk_norm() == "unit" || (router.topk_norm() == "renorm" && top_k == 1);
}

}  // namespace moe
