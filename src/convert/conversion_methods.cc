#include "convert/conversion_methods.h"

#include "convert/methods/analytic.h"
#include "convert/methods/coactivation.h"
#include "convert/methods/importance.h"
#include "convert/methods/independent_clustering.h"
#include "convert/methods/independent_gradient.h"
#include "convert/methods/independent_random.h"
#include "convert/methods/merge.h"
#include "convert/methods/pruned.h"
#include "convert/methods/residual.h"
#include "convert/methods/sequential.h"
#include "convert/methods/sharing_inner.h"
#include "convert/methods/sharing_inter.h"
#include "convert/methods/upcycle.h"
#include "convert/methods/weave.h"

namespace moe {

const Registry<ConversionMethod>& conversion_methods() {
  static const Registry<ConversionMethod> methods("conversion method",
                                                  {
                                                      {"independent_random", independent_random()},
                                                      {"independent_clustering", independent_clustering()},
                                                      {"sequential", sequential()},
                                                      {"independent_gradient", independent_gradient()},
                                                      {"sharing_inner", sharing_inner()},
                                                      {"sharing_inter", sharing_inter()},
                                                      {"importance", split_by_importance()},
                                                      {"residual", residual()},
                                                      {"coactivation", coactivation()},
                                                      {"pruned_random", pruned_random()},
                                                      {"pruned_gradient", pruned_gradient()},
                                                      {"upcycle", upcycle()},
                                                      {"weave", weave()},
                                                      {"analytic", analytic()},
                                                      {"merge", merge()},
                                                  });
  return methods;
}

}  // namespace moe
