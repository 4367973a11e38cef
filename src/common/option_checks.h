#pragma once

#include <CLI/Validators.hpp>
#include <string>

#include "common/error.h"

/// Checks of numbers on a command line. CLI11's own name the largest double as the bound, in 309 digits.
namespace moe {

/// Refuses what `accepts` does not take, and what is no number; `expected` and `name` are for the message and the help.
template <typename Predicate>
CLI::Validator number_check(Predicate accepts, const std::string& expected, const std::string& name) {
  const auto check = [accepts, expected](const std::string& text) -> std::string {
    double value = 0;
    return CLI::detail::lexical_cast(text, value) && accepts(value)
               ? ""
               : concat("expected ", expected, ", not '", text, "'");
  };
  return {check, name, name};
}

inline CLI::Validator positive_number() {
  return number_check([](double value) { return value > 0; }, "a number above 0", "POSITIVE");
}

inline CLI::Validator nonnegative_number() {
  return number_check([](double value) { return value >= 0; }, "0 or more", "NONNEGATIVE");
}

}  // namespace moe
