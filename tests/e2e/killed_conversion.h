#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/rank_processes.h"
#include "testing/subprocess.h"

/// A conversion of which one rank is killed.
namespace moe::testing {

/// Digests of everything that the stage "convert" of a run wrote, without the record of how it went.
inline std::map<std::string, std::string> made(const std::filesystem::path& out) {
  std::map<std::string, std::string> files;
  std::error_code missing;
  for (const auto& folder : std::filesystem::directory_iterator(out / "convert", missing)) {
    const std::string name = folder.path().filename();
    if (!name.starts_with("output-t") || !std::filesystem::exists(folder.path() / "STAGE.json")) continue;
    EXPECT_TRUE(files.empty()) << "two outputs";
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().filename() != "STAGE.json") files[entry.path().filename()] = xxh3_hex_of_file(entry.path());
    }
  }
  return files;
}

inline ProcessResult run_conversion(const std::filesystem::path& config, const std::filesystem::path& out, int ranks) {
  return run_process(worker_command(ranks, {"run", config, "--out", out}), {}, source_dir());
}

/// Runs, and kills one rank as soon as `moment` holds, which must be before there is an output.
inline void run_and_kill(const std::filesystem::path& config, const std::filesystem::path& out, size_t ranks,
                         const std::function<bool()>& moment) {
  bool killed = false;
  std::thread killer([&] {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(3);
    while (std::chrono::steady_clock::now() < deadline && made(out).empty()) {
      const std::vector<pid_t> running = rank_processes(out);
      if (running.size() == ranks && moment()) {
        killed = kill(running.back(), SIGKILL) == 0;
        return;
      }
      std::this_thread::yield();
    }
  });
  const ProcessResult result = run_conversion(config, out, static_cast<int>(ranks));
  killer.join();
  ASSERT_TRUE(killed) << "it ended before the moment came: " << result.err;
  EXPECT_NE(result.exit_code, 0) << "mpirun must fail when a rank is killed";
  EXPECT_TRUE(made(out).empty()) << "there is an output";
}

}  // namespace moe::testing
