#pragma once

#include <CLI/App.hpp>
#include <cstdint>

#include "common/option_checks.h"

/// Options of the commands that run a model.
namespace moe {

/// 0 where it is not given; for ModelDirectory::use_top_k.
inline void add_top_k_option(CLI::App& command, int64_t& top_k) {
  command
      .add_option("--top-k", top_k,
                  "Feed-forward experts that a token uses, other than the model says; the output scale stays")
      ->check(positive_number());
}

}  // namespace moe
