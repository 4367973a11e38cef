#include "parallel/dispatchers.h"

#include "parallel/all_to_all_dispatcher.h"

namespace moe {

const Registry<DispatcherFactory>& dispatchers() {
  static const Registry<DispatcherFactory> list(
      "dispatcher", {
                        {"local", [](Mesh&) { return std::make_unique<LocalDispatcher>(); }},
                        {"all_to_all", [](Mesh& mesh) { return std::make_unique<AllToAllDispatcher>(mesh); }},
                    });
  return list;
}

std::unique_ptr<TokenDispatcher> make_dispatcher(Mesh& mesh) {
  return dispatchers().at(mesh.expert_parallel() == 1 ? "local" : "all_to_all")(mesh);
}

}  // namespace moe
