#include "convert/conversion_methods.h"

#include "convert/random_split.h"
#include "convert/sequential_split.h"

namespace moe {

const Registry<ConversionMethod>& conversion_methods() {
  static const Registry<ConversionMethod> methods(
      "conversion method",
      {
          {"independent_random", {"random equal parts, per layer (LLaMA-MoE v1)", true, random_split}},
          {"sequential", {"consecutive equal parts (LLaMA-MoE v2, vanilla)", true, sequential_split}},
      });
  return methods;
}

}  // namespace moe
