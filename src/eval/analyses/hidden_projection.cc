#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "eval/analyses.h"
#include "eval/principal_components.h"
#include "eval/token_sample.h"

/// hidden_projection: what FFNs read, some tokens of each domain, along the two directions in which they vary most.
/// Source: LLaMA-MoE (arXiv:2406.16554) and v2 (arXiv:2411.15708), with one projection for all domains.
namespace moe {
namespace {

using nlohmann::json;

constexpr size_t kMostPoints = 1200;
constexpr size_t kGroups = 5;  ///< experts with a colour of their own

class HiddenProjectionAnalysis final : public TextAnalysis {
 public:
  explicit HiddenProjectionAnalysis(const TextSetting& setting) : config_(setting.config), domains_(setting.domains) {
    const size_t most = std::max<size_t>(1, kMostPoints / std::max<size_t>(1, domains_.size()));
    const int64_t last = config_.num_layers - 1;
    for (const int64_t layer : {int64_t{0}, last / 2, last}) samples_.try_emplace(layer, domains_.size(), most);
  }

  void see_stream(int64_t layer, LayerPoint point, const at::Tensor& values, const TextPieces& pieces) override {
    if (point == LayerPoint::kFfnInput && !config_.is_mixture(layer)) offer(layer, values, {}, pieces);
  }

  void see_mixture(const MixtureView& view, const TextPieces& pieces) override {
    offer(view.layer, view.x_TD, view.routing.expert_ids_TK, pieces);
  }

  json result(Communicator& world) override {
    json layers = json::array();
    for (const auto& [layer, sample] : samples_) {
      const std::vector<SampledToken> tokens = sample.drawn(config_.hidden_size, world);
      const std::string told = agree_on_result(world, concat("project tokens, layer ", layer),
                                               [&, layer = layer] { return layer_json(layer, tokens).dump(); });
      layers.push_back(json::parse(told));
    }
    return {{"domains", domains_}, {"layers", std::move(layers)}};
  }

 private:
  void offer(int64_t layer, const at::Tensor& values, const at::Tensor& expert_ids, const TextPieces& pieces) {
    const auto found = samples_.find(layer);
    if (found == samples_.end()) return;
    const at::Tensor x_TD = host_rows(values);
    const at::Tensor ids_TK = expert_ids.defined() ? expert_ids.to(at::kCPU).contiguous() : at::Tensor();
    const int64_t width = x_TD.size(1);
    for (const TextPiece& piece : pieces) {
      for (int64_t t = piece.first; t < piece.last; ++t) {
        const int64_t expert = ids_TK.defined() ? ids_TK.const_data_ptr<int64_t>()[t * ids_TK.size(1)] : -1;
        found->second.offer(piece.row, piece.domain, t, x_TD.const_data_ptr<double>() + t * width, width, expert);
      }
    }
  }

  json layer_json(int64_t layer, const std::vector<SampledToken>& tokens) const {
    std::vector<std::vector<float>> points;
    json domains = json::array(), experts = json::array();
    for (const SampledToken& token : tokens) {
      points.push_back(token.values);
      domains.push_back(domains_[static_cast<size_t>(token.domain)]);
      experts.push_back(token.label);
    }
    const PlaneProjection plane = principal_plane(points);
    json result = {{"layer", layer}, {"part", "ffn"}, {"variance_shares", {plane.share_x, plane.share_y}},
                   {"x", plane.x},   {"y", plane.y},  {"domain", std::move(domains)}};
    if (config_.is_mixture(layer)) result["first_expert"] = std::move(experts);
    return result;
  }

  ModelConfig config_;
  std::vector<std::string> domains_;
  std::map<int64_t, TokenSample> samples_;  ///< by layer
};

std::map<std::string, double> projection_metrics(const json& result) {
  double shares = 0;
  for (const json& layer : result["layers"])
    shares += layer["variance_shares"][0].get<double>() + layer["variance_shares"][1].get<double>();
  return {{"projected_variance", shares / static_cast<double>(result["layers"].size())}};
}

/// The points of a layer, a row a group: group_of(number of a point).
template <typename GroupOf>
Figure scatter(const json& layer, const std::vector<std::string>& groups, const GroupOf& group_of) {
  Figure figure{.form = Figure::Form::kScatter,
                .unit = "second component",
                .column_title = "first component",
                .rows = groups,
                .values = std::vector<std::vector<double>>(groups.size()),
                .x = std::vector<std::vector<double>>(groups.size())};
  for (size_t i = 0; i < layer["x"].size(); ++i) {
    const std::string group = group_of(i);
    const auto row = std::find(groups.begin(), groups.end(), group);
    const auto at = static_cast<size_t>((row == groups.end() ? groups.end() - 1 : row) - groups.begin());
    figure.x[at].push_back(layer["x"][i]);
    figure.values[at].push_back(layer["y"][i]);
  }
  return figure;
}

/// Names of the experts with the most points, and "others" if there are more.
std::vector<std::string> expert_groups(const json& first_experts) {
  std::map<int64_t, int64_t> points;
  for (const json& expert : first_experts) ++points[expert.get<int64_t>()];
  std::vector<std::pair<int64_t, int64_t>> order;  // less points, expert
  for (const auto& [expert, count] : points) order.emplace_back(-count, expert);
  std::sort(order.begin(), order.end());
  std::set<int64_t> shown;
  for (size_t i = 0; i < std::min(kGroups, order.size()); ++i) shown.insert(order[i].second);
  std::vector<std::string> groups;
  for (const int64_t expert : shown) groups.push_back(concat("expert ", expert));
  if (order.size() > kGroups) groups.emplace_back("others");
  return groups;
}

std::vector<Figure> projection_figures(const json& result) {
  std::vector<Figure> figures;
  for (const json& layer : result["layers"]) {
    const auto number = layer["layer"].get<int64_t>();
    Figure by_domain =
        scatter(layer, result["domains"], [&](size_t i) { return layer["domain"][i].get<std::string>(); });
    by_domain.name = concat("domains-", number);
    by_domain.title = concat("What the FFN reads, by domain, layer ", number);
    by_domain.note = "Some tokens of each domain along the two directions in which all of them vary most.";
    figures.push_back(std::move(by_domain));
    if (!layer.contains("first_expert")) continue;
    Figure by_expert = scatter(layer, expert_groups(layer["first_expert"]),
                               [&](size_t i) { return concat("expert ", layer["first_expert"][i].get<int64_t>()); });
    by_expert.name = concat("experts-", number);
    by_expert.title = concat("What the FFN reads, by expert, layer ", number);
    by_expert.note = "The same tokens by their first choice; of many experts those with the most of them.";
    figures.push_back(std::move(by_expert));
  }
  return figures;
}

}  // namespace

Analysis hidden_projection() {
  return {.title = "Hidden projection",
          .summary =
              "What FFNs read, along the two directions in which it varies most: whether domains lie apart, and "
              "whether the first choice follows.",
          .refusal = [](const ModelDirectory&) { return std::string(); },
          .of_text = [](const TextSetting& setting) { return std::make_unique<HiddenProjectionAnalysis>(setting); },
          .metrics = projection_metrics,
          .figures = projection_figures};
}

}  // namespace moe
