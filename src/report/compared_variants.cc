#include "report/compared_variants.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/error.h"

namespace moe {
namespace {

using Losses = std::map<std::string, double>;
using Conversions = std::vector<const ComparedConversion*>;

/// Of one conversion over `domains`; nothing unless it has them all.
std::optional<double> mean_over(const Losses& losses, const std::vector<std::string>& domains) {
  double sum = 0;
  for (const std::string& domain : domains) {
    const auto found = losses.find(domain);
    if (found == losses.end()) return std::nullopt;
    sum += found->second;
  }
  return domains.empty() ? std::nullopt : std::optional(sum / static_cast<double>(domains.size()));
}

std::optional<SeedSpread> over_seeds(const Conversions& seeds,
                                     const std::function<std::optional<double>(const ComparedConversion&)>& value) {
  std::vector<double> values;
  for (const ComparedConversion* seed : seeds) {
    const std::optional<double> one = value(*seed);
    if (one && std::isfinite(*one)) values.push_back(*one);
  }
  return spread_of(values);
}

std::map<std::string, SeedSpread> losses_over_seeds(const Conversions& seeds, Losses ComparedConversion::*losses) {
  std::map<std::string, SeedSpread> spreads;
  for (const ComparedConversion* seed : seeds) {
    for (const auto& [domain, loss] : seed->*losses) {
      if (spreads.contains(domain)) continue;
      const auto spread = over_seeds(seeds, [&, name = domain](const ComparedConversion& each) {
        const auto found = (each.*losses).find(name);
        return found == (each.*losses).end() ? std::nullopt : std::optional(found->second);
      });
      if (spread) spreads[domain] = *spread;
    }
  }
  return spreads;
}

ComparedVariant variant_of(const Conversions& seeds, const std::vector<std::string>& domains) {
  const ComparedConversion& first = *seeds.front();
  ComparedVariant row{.label = seeds.size() == 1 ? first.label : concat(first.variant, " (", seeds.size(), " seeds)"),
                      .experts = first.experts,
                      .parameters_active = first.parameters_active,
                      .dense_parameters = first.dense_parameters};
  row.converted = losses_over_seeds(seeds, &ComparedConversion::converted);
  row.trained = losses_over_seeds(seeds, &ComparedConversion::trained);
  row.mean_converted = over_seeds(seeds, [&](const auto& each) { return mean_over(each.converted, domains); });
  row.mean_trained = over_seeds(seeds, [&](const auto& each) { return mean_over(each.trained, domains); });
  row.divergence = over_seeds(seeds, [](const auto& each) { return each.divergence; });
  row.seconds = over_seeds(seeds, [](const auto& each) { return std::optional(each.seconds); })->mean;
  for (const ComparedConversion* seed : seeds) {
    if (row.export_format.empty()) row.export_format = seed->export_format;
    if (!seed->load) continue;
    if (!row.load) row.load = seed->load;
    row.load = {std::min(row.load->first, seed->load->first), std::max(row.load->second, seed->load->second)};
  }
  return row;
}

}  // namespace

std::optional<SeedSpread> spread_of(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  SeedSpread spread{.values = values};
  for (const double value : values) spread.mean += value / count;
  if (values.size() == 1) return spread;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  spread.deviation = std::sqrt(squares / (count - 1));
  return spread;
}

std::vector<std::string> common_domains(const PipelineReport& report) {
  std::vector<std::string> domains = domains_of(report);
  for (const ComparedConversion& row : report.compared) {
    for (const Losses* losses : {&row.converted, &row.trained}) {
      if (!losses->empty())
        std::erase_if(domains, [&](const std::string& domain) { return !losses->contains(domain); });
    }
  }
  return domains;
}

std::vector<ComparedVariant> compared_variants(const PipelineReport& report) {
  std::vector<Conversions> groups;
  for (const ComparedConversion& row : report.compared) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const Conversions& each) {
      return each.front()->variant == row.variant && each.front()->experts == row.experts;
    });
    if (group == groups.end()) {
      groups.push_back({&row});
    } else {
      group->push_back(&row);
    }
  }
  const std::vector<std::string> domains = common_domains(report);
  std::vector<ComparedVariant> rows;
  for (const Conversions& group : groups) rows.push_back(variant_of(group, domains));
  return rows;
}

}  // namespace moe
