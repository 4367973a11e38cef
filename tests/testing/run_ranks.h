#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/thread_communicator.h"

namespace moe::testing {

/// Runs `rank_main` on `size` ranks as threads of this process and rethrows the first failure; the other ranks are
/// told, so that none waits for it.
inline void run_ranks(int size, const std::function<void(Communicator& world)>& rank_main,
                      std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
  const std::vector<std::unique_ptr<ThreadCommunicator>> world = ThreadCommunicator::make_world(size, timeout);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (const std::unique_ptr<ThreadCommunicator>& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      try {
        rank_main(*rank);
      } catch (const std::exception& error) {
        {
          const std::lock_guard<std::mutex> lock(mutex);
          if (!first) first = std::current_exception();
        }
        rank->abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace moe::testing
