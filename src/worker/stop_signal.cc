#include "worker/stop_signal.h"

#include <unistd.h>

#include <csignal>

namespace moe {
namespace {

volatile std::sig_atomic_t stop_came = 0;
volatile std::sig_atomic_t end_came = 0;

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void install_stop_signal() {
  handle(SIGUSR1, [](int) { stop_came = 1; });
}

bool stop_signalled() {
  return stop_came != 0;
}

void outlive_end_signal() {
  handle(SIGTERM, [](int) { ::alarm(1); });  // whose signal nobody handles
}

EndSignal::EndSignal() {
  handle(SIGTERM, [](int) { end_came = 1; });
}

EndSignal::~EndSignal() {
  handle(SIGTERM, SIG_DFL);
}

bool EndSignal::came() const {
  return end_came != 0;
}

void EndSignal::end_process() {
  handle(SIGTERM, SIG_DFL);
  ::kill(::getpid(), SIGTERM);
  ::_exit(128 + SIGTERM);
}

}  // namespace moe
