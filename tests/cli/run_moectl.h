#pragma once

#include <signal.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli/scripted_coordinator.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

/// The real moectl as a process, against a scripted coordinator.
namespace moe::testing {

inline std::string moectl_path() {
  return build_dir() + "/bin/moectl";
}

inline ProcessResult run_moectl(const std::string& address, std::vector<std::string> arguments,
                                const std::string& working_directory = ".") {
  arguments.insert(arguments.begin(), {moectl_path(), "--coordinator", address});
  return run_process(arguments, {{"USER", "ada"}}, working_directory);
}

inline ProcessResult run_moectl(const ScriptedCoordinator& coordinator, std::vector<std::string> arguments,
                                const std::string& working_directory = ".") {
  return run_moectl(coordinator.address(), std::move(arguments), working_directory);
}

/// moectl beside the test: what it has said so far can be read, and it can be interrupted.
class RunningMoectl {
 public:
  RunningMoectl(const std::string& address, const std::vector<std::string>& arguments) {
    std::vector<std::string> command{"sh",
                                     "-c",
                                     R"(echo $$ >"$0/pid"; exec "$@" >"$0/out" 2>"$0/err")",
                                     folder_.path().string(),
                                     moectl_path(),
                                     "--coordinator",
                                     address};
    command.insert(command.end(), arguments.begin(), arguments.end());
    thread_ = std::thread([this, command] { result_ = run_process(command, {{"USER", "ada"}}); });
  }
  ~RunningMoectl() {
    if (!thread_.joinable()) return;
    send(SIGKILL);  // a test that failed before the end
    thread_.join();
  }

  std::string out() const { return text_of("out"); }
  std::string err() const { return text_of("err"); }

  /// Waits until it has written `text` to standard error; false after 20 s.
  bool says(const std::string& text) const {
    return waits_for([&] { return err().find(text) != std::string::npos; });
  }

  /// The same for standard output.
  bool prints(const std::string& text) const {
    return waits_for([&] { return out().find(text) != std::string::npos; });
  }

  void interrupt() const { send(SIGINT); }

  ProcessResult finish() {
    thread_.join();
    return {result_.exit_code, out(), err()};
  }

  /// True as soon as the condition holds, false after 20 s.
  static bool waits_for(const std::function<bool()>& condition) {
    for (int i = 0; i < 2000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

 private:
  void send(int signal) const {
    int pid = 0;
    std::ifstream(folder_ / "pid") >> pid;
    if (pid > 1) kill(pid, signal);
  }

  std::string text_of(const char* file) const {
    std::ostringstream text;
    text << std::ifstream(folder_ / file).rdbuf();
    return text.str();
  }

  TempDir folder_;
  ProcessResult result_;
  std::thread thread_;
};

}  // namespace moe::testing
