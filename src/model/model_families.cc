#include "model/model_families.h"

#include "model/llama_family.h"
#include "model/phi_family.h"
#include "model/qwen2_family.h"

namespace moe {

const Registry<ModelFamily>& model_families() {
  static const Registry<ModelFamily> families("model family (`model_type`)", {
                                                                                 {"llama", llama_family()},
                                                                                 {"qwen2", qwen2_family()},
                                                                                 {"phi", phi_family()},
                                                                             });
  return families;
}

}  // namespace moe
