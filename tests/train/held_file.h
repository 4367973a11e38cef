#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <future>

namespace moe::testing {

/// A pipe in place of a file that is not there yet: who writes the file is held when he opens it, until let_go(), and
/// then finds room for 1 MiB. Outlives who writes. Let go by itself after 20 s, so that a test that fails ends.
class HeldFile {
 public:
  explicit HeldFile(const std::filesystem::path& path) {
    std::filesystem::create_directories(path.parent_path());
    EXPECT_EQ(::mkfifo(path.c_str(), 0600), 0) << path;
    reader_ = std::async(std::launch::async, [path, released = released_.get_future()] {
      released.wait_for(std::chrono::seconds(20));
      const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
      EXPECT_GE(::fcntl(descriptor, F_SETPIPE_SZ, 1 << 20), 1 << 20);
      return descriptor;
    });
  }
  HeldFile(const HeldFile&) = delete;
  HeldFile& operator=(const HeldFile&) = delete;
  ~HeldFile() {
    let_go();
    ::close(reader_.get());
  }

  /// By one thread.
  void let_go() {
    if (!is_let_go_) released_.set_value();
    is_let_go_ = true;
  }

 private:
  std::promise<void> released_;
  std::future<int> reader_;
  bool is_let_go_ = false;
};

}  // namespace moe::testing
