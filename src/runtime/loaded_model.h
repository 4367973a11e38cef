#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "model/decoder.h"
#include "model/moe/token_dispatcher.h"
#include "parallel/mesh.h"
#include "runtime/opened_model.h"

/// The one way from a model directory to something that computes. Whoever trains, evaluates, scores or generates takes
/// it from here and need not know how experts are spread.
namespace moe {

/// A model that is ready to run on the ranks of a mesh, or in one process.
struct LoadedModel {
  std::filesystem::path path;
  Decoder decoder;                              ///< with this rank's experts
  std::unique_ptr<TokenDispatcher> dispatcher;  ///< to those of the others
  ModelText text;

  const ModelConfig& config() const { return decoder.config(); }
};

/// Loads the experts that `mesh` gives this rank, in the options' type, on their device.
/// Collective; the mesh must outlive the result. Throws, on every rank, what opening the directory throws on one, and
/// StorageError if the ranks read unlike weights, config.json or tokenizer. `chat_template` is what the job names,
/// empty for the model's own. `check` may throw, before the weights are read, what speaks against the model.
/// `with_selection_bias`: load_decoder. `top_k`: other than 0, of feed-forward experts, whatever the model's is
/// (ModelDirectory::use_top_k).
LoadedModel load_model(const std::filesystem::path& path, Mesh& mesh, const at::TensorOptions& options,
                       const std::string& chat_template = "", const std::function<void(const ModelConfig&)>& check = {},
                       bool with_selection_bias = false, int64_t top_k = 0);

/// All of it, for one process. The caller has opened it, and can find what speaks against the text before the weights
/// are read.
LoadedModel load_model(const OpenedModel& model, const at::TensorOptions& options = at::kFloat);

/// With the experts that `mesh`, which must outlive the result, gives this rank, in float. What it throws, one rank
/// throws alone.
LoadedModel load_model(const OpenedModel& model, Mesh& mesh);

}  // namespace moe
