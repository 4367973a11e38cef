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

namespace moe {
namespace {

/// With this rank's experts, and the way to those of the others.
LoadedModel on_mesh(const OpenedModel& model, Mesh& mesh, const at::TensorOptions& options, bool with_selection_bias) {
  const ModelConfig& config = model.directory.config();
  return {model.directory.path(),
          load_decoder(model.directory, options, mesh.owned_experts(config), with_selection_bias),
          config.moe ? make_dispatcher(mesh) : std::make_unique<LocalDispatcher>(), model.text};
}

}  // namespace

LoadedModel load_model(const std::filesystem::path& path, Mesh& mesh, const at::TensorOptions& options,
                       const std::string& chat_template, const std::function<void(const ModelConfig&)>& check,
                       bool with_selection_bias, int64_t top_k) {
  std::optional<LoadedModel> model;
  std::map<std::string, std::string> facts;
  agree(mesh.world(), "load " + path.string(), [&] {
    OpenedModel opened = open_model(path, text_of_job(chat_template));
    if (top_k > 0) opened.directory.use_top_k(top_k);
    if (check) check(opened.directory.config());
    model.emplace(on_mesh(opened, mesh, options, with_selection_bias));
    if (mesh.world().size() == 1) return;
    facts[(path / "config.json").string()] = xxh3_hex_of_file(path / "config.json");
    facts["tokenizer of " + path.string()] = model->text.tokenizer ? model->text.tokenizer->digest() : "none";
    for (const auto& [name, digest] : replica_digests(model->decoder.parameters()))
      facts[name + " of " + path.string()] = digest;
  });
  require_same_files(mesh.world(), "load " + path.string(), facts);
  return *std::move(model);
}

LoadedModel load_model(const OpenedModel& model, const at::TensorOptions& options) {
  return {model.directory.path(), load_decoder(model.directory, options, all_experts(model.directory.config())),
          std::make_unique<LocalDispatcher>(), model.text};
}

LoadedModel load_model(const OpenedModel& model, Mesh& mesh) {
  return on_mesh(model, mesh, at::kFloat, /*with_selection_bias=*/false);
}

}  // namespace moe
