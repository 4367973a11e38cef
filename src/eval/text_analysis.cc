#include "eval/text_analysis.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace moe {
namespace {

size_t number_of(const std::string& domain, const std::vector<std::string>& domains) {
  return static_cast<size_t>(std::find(domains.begin(), domains.end(), domain) - domains.begin());
}

TextPieces pieces_of(const PackedBatch& batch, int64_t row, const std::vector<std::string>& names,
                     const std::vector<std::string>& domains) {
  TextPieces pieces;
  for (size_t sample = 0; sample < batch.domains.size(); ++sample) {
    pieces.push_back({.row = row,
                      .domain = number_of(names[batch.domains[sample]], domains),
                      .first = batch.cu_seqlens[sample],
                      .last = batch.cu_seqlens[sample + 1]});
  }
  return pieces;
}

}  // namespace

std::vector<RouterPlace> routers_of(const ModelConfig& config) {
  std::vector<RouterPlace> routers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.is_mixture(layer)) routers.push_back({layer, "ffn", config.moe->num_experts, config.moe->top_k});
  }
  if (!config.moe || !config.moe->attention) return routers;
  const AttentionExperts& attention = *config.moe->attention;
  for (const int64_t layer : attention.expert_layers())
    routers.push_back({layer, "attention", attention.num_routed(), attention.top_k});
  return routers;
}

std::vector<std::string> domains_of(HeldOutData& data) {
  std::vector<std::string> domains;
  for (const HeldOutData::Part& part : data.parts()) {
    for (const std::string& name : part.loader->domain_names()) {
      if (number_of(name, domains) == domains.size()) domains.push_back(name);
    }
  }
  return domains;
}

void run_text_analyses(const LoadedModel& model, HeldOutData& data, Mesh& mesh,
                       const std::vector<TextAnalysis*>& analyses, const std::function<void(int64_t)>& rows_done,
                       const TextPass& pass) {
  const at::NoGradGuard no_grad;
  const std::vector<std::string> domains = domains_of(data);
  TextPieces pieces;
  ForwardOptions options;
  options.keeps_routing = true;
  options.choice = pass.choice;
  options.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
    for (TextAnalysis* analysis : analyses) analysis->see_stream(layer, point, values, pieces);
  };
  options.mixture_observer = [&](const MixtureView& view) {
    for (TextAnalysis* analysis : analyses) analysis->see_mixture(view, pieces);
  };
  const int64_t step = mesh.world().size();
  int64_t rows_before = 0;  // of the files before this one
  for (HeldOutData::Part& part : data.parts()) {
    const int64_t all_rows = std::min(part.rows, pass.most_rows);
    for (int64_t first = 0; first < all_rows; first += step) {
      const int64_t rows = std::min(step, all_rows - first);
      part.loader->release_before(first);
      const Mesh::Share share = mesh.share_of(rows);
      const PackedBatch batch = part.loader->batch(first + share.first, share.count);
      pieces = pieces_of(batch, rows_before + first + share.first, part.loader->domain_names(), domains);
      const int64_t before = options.choice.source.first_token;
      options.choice.source.first_token = before + part.loader->tokens(first, share.first);
      const DecoderOutput out = model.decoder.forward({batch.tokens_T, batch.cu_seqlens}, *model.dispatcher, options);
      options.choice.source.first_token = before + part.loader->tokens(first, rows);
      std::vector<const Routing*> routings;
      for (const RouterStats& router : out.router) routings.push_back(&router.routing);
      for (const RouterStats& router : out.attention_router) routings.push_back(&router.routing);
      for (TextAnalysis* analysis : analyses) analysis->see_routing(routings, pieces);
      if (rows_done) rows_done(rows);
    }
    rows_before += part.rows;
  }
}

at::Tensor host_rows(const at::Tensor& values) {
  return values.to(at::kCPU, at::kDouble).contiguous();
}

}  // namespace moe
