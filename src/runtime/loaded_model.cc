#include "runtime/loaded_model.h"

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "parallel/dispatchers.h"
#include "parallel/replicas.h"
#include "runtime/model_settings.h"

namespace moe {

LoadedModel load_model(const std::filesystem::path& path, Mesh& mesh, at::ScalarType dtype,
                       const std::function<void(const ModelConfig&)>& check) {
  std::optional<LoadedModel> model;
  std::map<std::string, std::string> facts;
  agree(mesh.world(), "load " + path.string(), [&] {
    const ModelDirectory directory(path);
    const ModelConfig& config = directory.config();
    if (check) check(config);
    model.emplace(LoadedModel{path, load_decoder(directory, dtype, mesh.owned_experts(config)),
                              config.moe ? make_dispatcher(mesh) : std::make_unique<LocalDispatcher>(),
                              tokenizer_for(path)});
    if (mesh.world().size() == 1) return;
    facts[(path / "config.json").string()] = xxh3_hex_of_file(path / "config.json");
    facts["tokenizer of " + path.string()] = model->tokenizer ? model->tokenizer->digest() : "none";
    for (const auto& [name, digest] : replica_digests(model->decoder.parameters()))
      facts[name + " of " + path.string()] = digest;
  });
  require_same_files(mesh.world(), "load " + path.string(), facts);
  return *std::move(model);
}

LoadedModel load_model(const ModelDirectory& directory, std::shared_ptr<const Tokenizer> tokenizer,
                       at::ScalarType dtype) {
  return {directory.path(), load_decoder(directory, dtype, all_experts(directory.config())),
          std::make_unique<LocalDispatcher>(), std::move(tokenizer)};
}

}  // namespace moe
