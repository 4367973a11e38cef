#pragma once

#include <CLI/Validators.hpp>
#include <string>

#include "common/error.h"

/// Checks of numbers on a command line. CLI11's own name the largest double as the bound, in 309 digits.
namespace moe {

inline CLI::Validator positive_number() {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    return CLI::detail::lexical_cast(text, value) && value > 0 ? "" : concat("expected a number above 0, not '", text, "'");
  };
  return {check, "POSITIVE", "positive_number"};
}

inline CLI::Validator nonnegative_number() {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    return CLI::detail::lexical_cast(text, value) && value >= 0 ? "" : concat("expected 0 or more, not '", text, "'");
  };
  return {check, "NONNEGATIVE", "nonnegative_number"};
}

}  // namespace moe
