#include "model/model_families.h"

#include "model/llama_family.h"

namespace moe {

const Registry<ModelFamily>& model_families() {
  static const Registry<ModelFamily> families("model family (`model_type`)", {
                                                                                 {"llama", llama_family()},
                                                                             });
  return families;
}

}  // namespace moe
