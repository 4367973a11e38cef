#pragma once

#include <memory>
#include <ostream>
#include <streambuf>

/// Results on standard output that are not lost in silence: every program's main makes one StandardOutput before it
/// prints, and what std::cout cannot write then ends the command.
namespace moe {

/// While it lives, an output to std::cout that cannot be written (a full disk, a closed descriptor) throws
/// StorageError, and one whose reader went away ends the process as SIGPIPE does. SIGPIPE itself is ignored, so that a
/// peer that closes a socket ends nothing. One per process; std::cout is used by one thread at a time.
class StandardOutput {
 public:
  StandardOutput();
  StandardOutput(const StandardOutput&) = delete;
  StandardOutput& operator=(const StandardOutput&) = delete;
  /// What finish() did not write is dropped.
  ~StandardOutput();

  /// Writes what is still held back. The last thing that main does.
  void finish();

 private:
  class Buffer;
  std::unique_ptr<Buffer> buffer_;
  std::unique_ptr<std::ostream> quiet_;  ///< the same output, without exceptions
  std::streambuf* previous_;
};

/// Ends the process without a word by SIGPIPE, as a program ends whose reader went away.
[[noreturn]] void end_by_broken_pipe();

}  // namespace moe
