#include "coordinator/long_polls.h"

namespace moe {
namespace {

constexpr std::chrono::milliseconds kLook{200};

}  // namespace

LongPolls::LongPolls() : thread_([this] { run(); }) {}

LongPolls::~LongPolls() {
  close();
  thread_.join();
}

void LongPolls::close() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  wake_.notify_all();
}

void LongPolls::wait(std::chrono::steady_clock::time_point deadline, Attempt attempt) {
  {
    const std::lock_guard lock(mutex_);
    if (!closing_) {
      waiting_.push_back({deadline, std::move(attempt)});
      changed_ = true;  // what the call waits for may have come since it looked
      wake_.notify_one();
      return;
    }
  }
  attempt(true);
}

void LongPolls::notify() {
  const std::lock_guard lock(mutex_);
  changed_ = true;
  wake_.notify_one();
}

void LongPolls::run() {
  while (true) {
    std::list<Waiting> round;
    bool is_last_round = false;
    {
      std::unique_lock lock(mutex_);
      if (waiting_.empty()) {
        wake_.wait(lock, [this] { return !waiting_.empty() || closing_; });
      } else {
        wake_.wait_for(lock, kLook, [this] { return changed_ || closing_; });
      }
      changed_ = false;
      is_last_round = closing_;
      round.swap(waiting_);
    }
    const auto now = std::chrono::steady_clock::now();
    round.remove_if([&](Waiting& call) { return call.attempt(is_last_round || call.deadline <= now); });
    if (is_last_round) return;
    const std::lock_guard lock(mutex_);
    waiting_.splice(waiting_.begin(), round);
  }
}

}  // namespace moe
