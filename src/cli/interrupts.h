#pragma once

#include <mutex>
#include <string>
#include <thread>

/// Ctrl-C in a program that waits inside calls: a thread of its own takes SIGINT, says what goes on without us and ends
/// the process with 130. Made by main before any other thread, so that all of them inherit the blocked signal.
namespace moe {

class Interrupts {
 public:
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  ~Interrupts();

  /// What is printed on an interrupt from now on, for example "job x keeps running". Any thread.
  void set_message(std::string message);

 private:
  void wait_for_signal();

  std::mutex mutex_;
  std::string message_;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace moe
