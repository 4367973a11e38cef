#pragma once

#include <string>

#include "common/error.h"

namespace moe::testing {

/// What the E says that `work` throws; "nothing was thrown" where it throws none. Other exceptions pass. For one
/// message to look at, gmock's ThrowsMessage is shorter.
template <typename E = InvalidArgument, typename Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace moe::testing
