#include "cli/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "cli/exit_status.h"

namespace moe {

Interrupts::Interrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { wait_for_signal(); });
}

Interrupts::~Interrupts() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_over_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGINT);
  thread_.join();
}

void Interrupts::set_message(std::string message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  message_ = std::move(message);
}

void Interrupts::wait_for_signal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  int signal = 0;
  while (sigwait(&signals, &signal) != 0) {
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (is_over_) return;
  std::fprintf(stderr, "\nmoectl: interrupted%s%s\n", message_.empty() ? "" : "; ", message_.c_str());
  // Other threads are inside calls: nothing here waits for them.
  _exit(static_cast<int>(ExitStatus::kInterrupted));
}

}  // namespace moe
