#pragma once

#include <functional>
#include <memory>

#include "common/registry.h"
#include "parallel/mesh.h"
#include "train/recipe.h"

namespace moe {

struct TrainRequest;

/// Loads what the request names and makes the recipe over it; `request` and `mesh` outlive it. Collective; throws
/// agreed errors.
using RecipeMaker = std::function<std::unique_ptr<Recipe>(const TrainRequest& request, Mesh& mesh)>;

/// The only list of recipes.
const Registry<RecipeMaker>& recipes();

/// What a training is where nobody says otherwise.
inline constexpr char kDefaultRecipe[] = "language_model";

}  // namespace moe
