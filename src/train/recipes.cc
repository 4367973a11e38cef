#include "train/recipes.h"

#include "train/recipes/language_model.h"

namespace moe {

const Registry<RecipeMaker>& recipes() {
  static const Registry<RecipeMaker> all(
      "recipe", {
                    {"language_model", [](const TrainRequest& request,
                                          Mesh& mesh) { return std::make_unique<LanguageModel>(request, mesh); }},
                });
  return all;
}

}  // namespace moe
