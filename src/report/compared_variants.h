#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/pipeline_report.h"

/// The rows of the leaderboard: the conversions of PipelineReport::compared, seeds of one variant together.
namespace moe {

/// A number over the seeds of a variant.
struct SeedSpread {
  double mean = 0;
  std::optional<double> deviation{};  ///< of the sample (n - 1); absent for one seed
  std::vector<double> values{};       ///< one a seed, in the order of the file
};

/// Mean and spread of what there is; nothing of nothing. Values are finite.
std::optional<SeedSpread> spread_of(const std::vector<double>& values);

/// A row: one conversion, or all seeds of a variant.
struct ComparedVariant {
  std::string label;    ///< with the number of seeds, where there are several
  std::string experts;  ///< as ComparedConversion's, like all that has no spread
  int64_t parameters_active = 0;
  int64_t dense_parameters = 0;
  std::map<std::string, SeedSpread> converted{};  ///< by domain
  std::map<std::string, SeedSpread> trained{};
  std::optional<SeedSpread> mean_converted{};  ///< over the domains that all conversions have
  std::optional<SeedSpread> mean_trained{};
  std::optional<SeedSpread> divergence{};
  std::optional<std::pair<double, double>> load{};  ///< widest of any seed
  double seconds = 0;                               ///< mean
  std::string export_format{};

  bool is_dense() const { return experts.empty(); }
  bool is_trained() const { return !trained.empty(); }
  /// Of the last model that was measured.
  const std::optional<SeedSpread>& last_mean() const { return is_trained() ? mean_trained : mean_converted; }
};

/// The rows, in the order of the first seed of each.
std::vector<ComparedVariant> compared_variants(const PipelineReport& report);

/// The domains that every conversion has, by which they are compared.
std::vector<std::string> common_domains(const PipelineReport& report);

}  // namespace moe
