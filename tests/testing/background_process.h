#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moe::testing {

/// A real program that runs beside the test, in a session of its own, its output in a file. With the object everything
/// that it started ends.
class BackgroundProcess {
 public:
  BackgroundProcess(const std::vector<std::string>& arguments, std::filesystem::path log,
                    const std::map<std::string, std::string>& environment = {},
                    const std::string& working_directory = ".");
  BackgroundProcess(const BackgroundProcess&) = delete;
  BackgroundProcess& operator=(const BackgroundProcess&) = delete;
  ~BackgroundProcess();

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  bool is_running();
  /// Exit code, or 128 + signal; nullopt if it still runs after `timeout`.
  std::optional<int> wait(std::chrono::milliseconds timeout);
  std::string output() const;

 private:
  bool reap(bool block);

  std::filesystem::path log_;
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
};

/// Polls until `condition` holds; false after `timeout`.
template <typename Condition>
bool eventually(std::chrono::milliseconds timeout, Condition condition);

/// Children, grandchildren, ... whose command begins with `program`, by pid.
std::vector<pid_t> descendants(pid_t root, const std::string& program);

}  // namespace moe::testing

#include <thread>

template <typename Condition>
bool moe::testing::eventually(std::chrono::milliseconds timeout, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}
