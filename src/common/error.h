#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "common/printable.h"

/// The exception types of the whole system. Standard library only, since src/kernels includes it too. Throw when the
/// job cannot go on; catch only at edges (job runner, thread entry, main). A message says what, with the values, where
/// it came from and what to do. It may quote what it found: every message is valid UTF-8 and bounded
/// (common/printable.h).
namespace moe {

class Error : public std::runtime_error {
 public:
  explicit Error(std::string_view message) : std::runtime_error(printable(message)) {}
};

/// The command line is wrong. Exit code 64.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// A config, a model or a data file is wrong, or a caller's argument: trying again changes nothing. Exit code 65.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// A file's bytes contradict its format or checksum. Exit code 65.
class Corruption : public InvalidArgument {
 public:
  using InvalidArgument::InvalidArgument;
};

/// Our own invariant broke. Exit code 70.
class Internal : public Error {
 public:
  using Error::Error;
};

/// CUDA, NCCL or MPI failed: the machine, not the job. Exit code 71.
class HardwareError : public Error {
 public:
  using Error::Error;
};

/// Writing or reading storage failed: full, read-only, I/O error. Exit code 74.
class StorageError : public Error {
 public:
  using Error::Error;
};

/// The coordinator cannot be reached. Exit code 69.
class Unavailable : public Error {
 public:
  using Error::Error;
};

/// Another attempt holds the job: this gang must stop writing. Exit code 76.
class Fenced : public Error {
 public:
  using Error::Error;
};

/// A wait passed its deadline: some rank hangs. Exit code 86.
class Timeout : public Error {
 public:
  using Error::Error;
};

/// Training gave non-finite numbers too often. Exit code 87.
class Diverged : public Error {
 public:
  using Error::Error;
};

/// Checkpoints exist and none can be read. Exit code 88.
class NoReadableCheckpoint : public Error {
 public:
  using Error::Error;
};

/// What an exception says, be it ours or a library's, fit to be told. LibTorch adds the place and a stack trace to its
/// errors; a user needs what stands before.
inline std::string message_of(const std::exception& error) {
  const std::string_view text = error.what();
  return printable(text.substr(0, text.find("\nException raised from")));
}

/// Concatenates its arguments as a stream prints them.
template <typename... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

/// Throws Internal when an invariant of our own does not hold.
#define MOE_CHECK(condition, ...)                                                                         \
  do {                                                                                                    \
    if (!(condition)) {                                                                                   \
      throw ::moe::Internal(                                                                              \
          ::moe::concat("check failed: " #condition " (", __FILE__, ":", __LINE__, ") ", ##__VA_ARGS__)); \
    }                                                                                                     \
  } while (false)

}  // namespace moe
