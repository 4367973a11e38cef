#pragma once

#include <functional>
#include <memory>

#include "common/registry.h"
#include "model/moe/token_dispatcher.h"
#include "parallel/mesh.h"

namespace moe {

using DispatcherFactory = std::function<std::unique_ptr<TokenDispatcher>(Mesh& mesh)>;

/// THE list of dispatchers. The mesh must outlive what it makes.
const Registry<DispatcherFactory>& dispatchers();

/// "local" where a rank holds all experts, "all_to_all" otherwise.
std::unique_ptr<TokenDispatcher> make_dispatcher(Mesh& mesh);

}  // namespace moe
