#include "common/standard_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iostream>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/write_all.h"

namespace moe {
namespace {

/// A file that is opened while descriptor 0, 1 or 2 is closed would take its number, and be written what is meant for a
/// person.
void occupy_standard_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free number is this one. What is written to standard output must still fail: it is open for reading.
    [[maybe_unused]] const int opened = ::open("/dev/null", descriptor == STDOUT_FILENO ? O_RDONLY : O_RDWR);
  }
}

}  // namespace

class StandardOutput::Buffer final : public std::streambuf {
 public:
  Buffer() { setp(bytes_.data(), bytes_.data() + bytes_.size()); }

  /// What could not be written once fails for ever: a part of the results is missing.
  void write_out() {
    if (!problem_.empty()) throw StorageError(problem_);
    const std::string_view rest(pbase(), static_cast<size_t>(pptr() - pbase()));
    setp(bytes_.data(), bytes_.data() + bytes_.size());
    if (write_all(STDOUT_FILENO, rest)) return;
    if (errno == EPIPE) end_by_broken_pipe();
    problem_ =
        concat("cannot write to standard output: ", std::strerror(errno), errno == ENOSPC ? "; is the disk full?" : "");
    throw StorageError(problem_);
  }

 protected:
  int_type overflow(int_type c) override {
    write_out();
    if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    return sputc(traits_type::to_char_type(c));
  }
  /// A person sees each output at once. (std::unitbuf would write in a destructor, which cannot say that it failed.)
  std::streamsize xsputn(const char* text, std::streamsize count) override {
    const std::streamsize taken = std::streambuf::xsputn(text, count);
    if (is_terminal_) write_out();
    return taken;
  }
  int sync() override {
    write_out();
    return 0;
  }

 private:
  std::array<char, 1 << 16> bytes_;
  std::string problem_;
  const bool is_terminal_ = ::isatty(STDOUT_FILENO) == 1;
};

StandardOutput::StandardOutput()
    : buffer_(std::make_unique<Buffer>()), quiet_(std::make_unique<std::ostream>(buffer_.get())) {
  occupy_standard_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  previous_ = std::cout.rdbuf(buffer_.get());
  // An exception of the buffer comes out of the output that met it.
  std::cout.exceptions(std::ios::badbit);
  // Results stand before the messages that follow them; but where an error is being told, std::cout must not throw once
  // more.
  std::cerr.tie(quiet_.get());
}

StandardOutput::~StandardOutput() {
  std::cerr.tie(&std::cout);
  std::cout.exceptions(std::ios::goodbit);
  std::cout.rdbuf(previous_);
}

void StandardOutput::finish() {
  buffer_->write_out();
}

void end_by_broken_pipe() {
  std::signal(SIGPIPE, SIG_DFL);
  sigset_t broken_pipe;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  pthread_sigmask(SIG_UNBLOCK, &broken_pipe, nullptr);
  std::raise(SIGPIPE);
  ::_exit(128 + SIGPIPE);
}

}  // namespace moe
