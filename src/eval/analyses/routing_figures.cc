#include "eval/analyses/routing_figures.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "common/error.h"
#include "eval/analyses/router_figures.h"

namespace moe {
namespace {

using nlohmann::json;

/// By expert, NaN where a number is null.
std::vector<double> numbers_of(const json& list) {
  std::vector<double> numbers;
  for (const json& value : list) numbers.push_back(value.is_number() ? value.get<double>() : std::nan(""));
  return numbers;
}

Figure named(Figure figure, const std::string& name, const std::string& title, const std::string& note) {
  figure.name = name;
  figure.title = title;
  figure.note = note;
  return figure;
}

/// A list by expert of each router over its mean; of(router) is what has the list.
Figure even_share_map(const json& routers, const std::string& key, const std::function<json(const json& router)>& of) {
  Figure figure = expert_heatmap(routers, [&](const json& router) { return over_mean(numbers_of(of(router)[key])); });
  figure.scale = Figure::Scale::kEvenShare;
  figure.unit = "× an even share";
  return figure;
}

/// Of all text and then of each domain, where there are several.
void add_maps(const json& result, std::vector<Figure>& figures) {
  const json& routers = result["routers"];
  const std::vector<std::string> domains = result["domains"];
  struct Map {
    const char *key, *name, *title, *note;
    bool by_domain;
  };
  for (const Map& map : {Map{"load", "load", "Load of the experts",
                             "Tokens of an expert over an even share: 1 is even, 0 a dead expert.", true},
                         Map{"weight_sum", "importance", "Importance of the experts",
                             "Sum of the weights that an expert was given, over an even share.", false},
                         Map{"probability", "probability", "Mean router probability",
                             "Mean over the tokens, chosen or not, times the number of experts.", true}}) {
    figures.push_back(named(even_share_map(routers, map.key, [](const json& router) { return router["all"]; }),
                            map.name, concat(map.title, ", all text"), map.note));
    for (size_t d = 0; map.by_domain && domains.size() > 1 && d < domains.size(); ++d) {
      const auto of_domain = [&](const json& router) { return router["domains"][domains[d]]; };
      figures.push_back(named(even_share_map(routers, map.key, of_domain), concat(map.name, "-", d + 1),
                              concat(map.title, ", ", domains[d]), concat("Of the tokens of this domain. ", map.note)));
    }
  }
  Figure counts = expert_heatmap(routers, [](const json& router) { return numbers_of(router["all"]["load"]); });
  counts.scale = Figure::Scale::kCount;
  counts.unit = "choices";
  figures.push_back(named(std::move(counts), "load-counts", "Choices of the experts",
                          "How often tokens of all text chose an expert, in numbers."));
}

void add_lines(const json& result, std::vector<Figure>& figures) {
  const json& routers = result["routers"];
  const std::vector<std::string> domains = result["domains"];
  struct Line {
    const char *key, *name, *title, *note;
  };
  for (const Line& line :
       {Line{"agreement", "agreement", "Choices as in the model",
             "Share of the baseline's choices that the model makes too; 1: routing did not move."},
        Line{"load_max_over_mean", "load-max", "Greatest load over the mean",
             "Load of the busiest expert of a layer; 1 is even."},
        Line{"load_variation", "load-variation", "Variation of the load",
             "Deviation of the experts' loads over their mean; 0 is even."},
        Line{"entropy", "entropy", "Entropy of the router (nats)",
             "Mean over tokens; the logarithm of the number of experts where all are alike."},
        Line{"margin", "margin", "Margin of the first choice",
             "Probability of the likeliest expert less that of the next, mean over tokens."},
        Line{"local_consistency", "local-consistency", "Local routing consistency",
             "Share of the choices of 16 tokens in a row that fall upon the top-k experts which these 16 choose most; "
             "1: all choose alike."},
        Line{"visible_keys", "visible-keys", "Visible keys of attention's experts",
             "Share of the tokens up to each one that its experts see, mean over tokens and choices; 1 is dense "
             "attention."}}) {
    json shown = json::array();  // of a baseline alone, of attention alone
    for (const json& router : routers) {
      if (router["all"].contains(line.key)) shown.push_back(router);
    }
    if (shown.empty()) continue;
    const auto value = [&](const json& router, const std::string& domain) {
      const json& number = router["domains"][domain][line.key];
      return number.is_number() ? number.get<double>() : std::nan("");
    };
    figures.push_back(named(router_lines(shown, domains, value), line.name, line.title, line.note));
  }
  const std::vector<std::string> losses{"balance_loss", "importance_loss", "load_loss"};
  figures.push_back(named(router_lines(routers, losses,
                                       [](const json& router, const std::string& loss) {
                                         const json& number = router["all"][loss];
                                         return number.is_number() ? number.get<double>() : std::nan("");
                                       }),
                          "losses", "Losses of the router",
                          "Of all text: the balance loss, 1 where routing is even, and the squared variations of "
                          "importance and load, 0 where they are."));
  if (domains.size() > 1)
    figures.push_back(
        named(router_lines(routers, {"specialisation"},
                           [](const json& router, const std::string& name) { return router[name].get<double>(); }),
              "specialisation", "Specialisation by layer",
              "Sum over the experts of the variance over the domains of their share of the choices."));
}

/// Of each router with several choices a token, which two experts it chooses.
void add_pairs(const json& result, std::vector<Figure>& figures) {
  for (const json& router : result["routers"]) {
    if (!router.contains("coactivation")) continue;
    Figure figure{.scale = Figure::Scale::kCount,
                  .unit = "tokens",
                  .row_title = "expert",
                  .column_title = "expert",
                  .values = router["coactivation"]};
    for (size_t e = 0; e < figure.values.size(); ++e) {
      figure.values[e][e] = std::nan("");  // all of its tokens, beside which nothing would show
      figure.rows.push_back(std::to_string(e));
    }
    figure.columns = figure.rows;
    const std::string part = router["part"] == "ffn" ? "" : "-attention";
    figures.push_back(named(std::move(figure), concat("together-", router["layer"].get<int64_t>(), part),
                            concat("Experts chosen together, layer ", router_name(router)),
                            "Tokens of all text that chose both experts."));
  }
}

}  // namespace

std::map<std::string, double> routing_metrics(const json& result) {
  double worst = 0, least = std::numeric_limits<double>::infinity(), consistency = 0, margin = 0, dead = 0, experts = 0;
  for (const json& router : result["routers"]) {
    const json& all = router["all"];
    const auto number = [&](const char* name) {
      return all[name].is_number() ? all[name].get<double>() : std::nan("");
    };
    worst = std::max(worst, number("load_max_over_mean"));
    least = std::min(least, number("load_min_over_mean"));
    consistency += number("local_consistency");
    margin += number("margin");
    for (const json& load : all["load"]) dead += load == 0 ? 1 : 0;
    experts += router["experts"].get<double>();
  }
  const auto routers = static_cast<double>(result["routers"].size());
  return {{"worst_load_over_mean", worst},
          {"least_load_over_mean", least},
          {"dead_expert_fraction", dead / experts},
          {"local_routing_consistency", consistency / routers},
          {"router_margin", margin / routers}};
}

std::vector<Figure> routing_figures(const json& result) {
  std::vector<Figure> figures;
  add_maps(result, figures);
  add_lines(result, figures);
  add_pairs(result, figures);
  return figures;
}

}  // namespace moe
