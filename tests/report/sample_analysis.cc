#include "report/sample_analysis.h"

#include <cmath>

namespace moe::testing {
namespace {

std::vector<std::string> numbers(size_t count) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

std::vector<std::vector<double>> waves(size_t rows, size_t columns, double least, double greatest) {
  std::vector<std::vector<double>> values(rows, std::vector<double>(columns));
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c)
      values[r][c] = least + (greatest - least) * (0.5 + 0.5 * std::sin(static_cast<double>(3 * r + 2 * c)));
  }
  return values;
}

}  // namespace

AnalysisPage sample_analysis(const std::string& domain) {
  const std::vector<std::string> domains{domain, "maths", "books", "code"};
  AnalysisSection routing{.name = "routing",
                          .title = "Routing",
                          .summary = "Where routers send the tokens of each domain.",
                          .numbers = {{"worst load over mean", "1.61"}, {"router margin", "0.2031"}},
                          .figures = {}};
  Figure load{.name = "load",
              .title = "Load of the experts, all text",
              .note = "1 is even, 0 a dead expert.",
              .scale = Figure::Scale::kEvenShare,
              .unit = "× an even share",
              .row_title = "layer",
              .column_title = "expert",
              .rows = numbers(6),
              .columns = numbers(24),
              .values = waves(6, 24, 0.1, 3)};
  load.values[2][5] = 0;
  routing.figures.push_back(load);
  routing.figures.push_back({.name = "entropy",
                             .title = "Entropy of the router (nats)",
                             .note = "Mean over tokens.",
                             .form = Figure::Form::kLines,
                             .column_title = "layer",
                             .rows = domains,
                             .columns = numbers(6),
                             .values = waves(4, 6, 0.4, 2.9)});
  load.title = "Load of the experts, all text";
  routing.of_baseline.push_back(load);
  AnalysisSection similarity{.name = "routing_similarity",
                             .title = "Routing similarity",
                             .summary = "How alike the domains are routed.",
                             .numbers = {},
                             .figures = {{.name = "domains",
                                          .title = "Difference of domains",
                                          .note = "0 is alike.",
                                          .row_title = "domain",
                                          .column_title = "domain",
                                          .rows = domains,
                                          .columns = domains,
                                          .values = waves(4, 4, 0, 1.7)},
                                         {.name = "shares",
                                          .title = "Domains of the experts",
                                          .note = "As if all were equally long.",
                                          .scale = Figure::Scale::kShare,
                                          .row_title = "domain",
                                          .column_title = "expert",
                                          .rows = domains,
                                          .columns = numbers(8),
                                          .values = waves(4, 8, 0, 1)}}};
  return {.title = "Analysis: trained",
          .facts = {{"model", "out/train/output-t0001 – 6.82 M parameters, 6 layers, 24 experts, top-2"},
                    {"text", domain + " (" + domain + ".valid.jsonl), up to 16384 tokens each"}},
          .sections = {routing, similarity},
          .passed_over = {{"neuron_overlap", "there is no conversion.safetensors"}}};
}

}  // namespace moe::testing
