#include "convert/conversion_methods.h"

#include "convert/methods/independent_clustering.h"
#include "convert/methods/independent_random.h"
#include "convert/methods/sequential.h"

namespace moe {

const Registry<ConversionMethod>& conversion_methods() {
  static const Registry<ConversionMethod> methods("conversion method",
                                                  {
                                                      {"independent_random", independent_random()},
                                                      {"independent_clustering", independent_clustering()},
                                                      {"sequential", sequential()},
                                                  });
  return methods;
}

}  // namespace moe
