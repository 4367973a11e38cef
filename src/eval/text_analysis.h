#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "eval/perplexity.h"
#include "model/layer_context.h"
#include "model/moe/expert_choice.h"
#include "model/moe/mixture_view.h"
#include "parallel/mesh.h"
#include "runtime/loaded_model.h"

// T tokens, D hidden, E experts, K top-k.
namespace moe {

/// A part of a model that routes. Of attention, experts are those that a token may choose, numbered from 0.
struct RouterPlace {
  int64_t layer = 0;
  std::string part;  ///< "ffn" | "attention"
  int64_t experts = 0;
  int64_t top_k = 0;
};
/// Those of the FFNs by layer, then those of attention.
std::vector<RouterPlace> routers_of(const ModelConfig& config);

/// Consecutive tokens [first, last) of a batch that are one sample: of one domain, and attended to together.
struct TextPiece {
  int64_t row = 0;    ///< of all text
  size_t domain = 0;  ///< its number among the domains
  int64_t first = 0;
  int64_t last = 0;
};
using TextPieces = std::vector<TextPiece>;

class TextAnalysis;

/// What text analyses know before they see any.
struct TextSetting {
  const ModelConfig& config;
  std::vector<std::string> domains;  ///< in the order in which the files bring them
  /// Where the model is the baseline: the same analysis of the model that it is compared with, after all of the text.
  const TextAnalysis* of_model = nullptr;
};

/// An analysis of what a model does with text, told of every batch by run_text_analyses(). Keeps sums (text_sums.h).
class TextAnalysis {
 public:
  virtual ~TextAnalysis() = default;

  /// What a mixture did. May use collectives.
  virtual void see_mixture(const MixtureView& /*view*/, const TextPieces& /*pieces*/) {}
  /// The stream, as a LayerObserver sees it.
  virtual void see_stream(int64_t /*layer*/, LayerPoint /*point*/, const at::Tensor& /*values*/,
                          const TextPieces& /*pieces*/) {}
  /// How each router routed, in the order of routers_of().
  virtual void see_routing(const std::vector<const Routing*>& /*routers*/, const TextPieces& /*pieces*/) {}

  /// Its result, the same on every rank. Collective, after the last batch.
  virtual nlohmann::json result(Communicator& world) = 0;
};

/// The domains of all the data, in order.
std::vector<std::string> domains_of(HeldOutData& data);

/// What text goes through the model, and how.
struct TextPass {
  int64_t most_rows = std::numeric_limits<int64_t>::max();  ///< of each file
  PassChoice choice{};                                      ///< a token's place is that among all that is taken
};

/// The data through the model, once, a row of each rank at a time. Collective over the mesh's world; computes no
/// gradient.
void run_text_analyses(const LoadedModel& model, HeldOutData& data, Mesh& mesh,
                       const std::vector<TextAnalysis*>& analyses,
                       const std::function<void(int64_t rows)>& rows_done = {}, const TextPass& pass = {});

/// Values of a batch on the host, in rows, to be summed one by one.
at::Tensor host_rows(const at::Tensor& values);

}  // namespace moe
