#include "comm/operation_log.h"

#include <algorithm>

namespace moe {

void OperationLog::begin(std::string_view op, bool is_after_work) {
  const std::lock_guard lock(mutex_);
  names_[count_++ % kKept] = op;
  is_in_flight_ = true;
  is_after_work_ = is_after_work;
  since_ = std::chrono::steady_clock::now();
}

void OperationLog::end(int64_t sent_bytes) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (observer_)
    observer_(names_[(count_ - 1) % kKept], std::chrono::duration<double>(now - since_).count(), sent_bytes);
  is_in_flight_ = false;
  since_ = now;
}

void OperationLog::observe(Observer observer) {
  const std::lock_guard lock(mutex_);
  observer_ = std::move(observer);
}

uint64_t OperationLog::sequence() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

std::string OperationLog::current() const {
  const std::lock_guard lock(mutex_);
  return count_ == 0 ? "" : names_[(count_ - 1) % kKept];
}

OperationState OperationLog::state() const {
  const std::lock_guard lock(mutex_);
  if (count_ == 0) return {};
  return {names_[(count_ - 1) % kKept], count_, is_in_flight_, is_after_work_, since_};
}

std::string OperationLog::recent(uint64_t how_many) const {
  const std::lock_guard lock(mutex_);
  const uint64_t available = std::min({how_many, count_, kKept});
  std::string text;
  for (uint64_t i = count_ - available; i < count_; ++i) {
    text += (text.empty() ? "" : ", ") + std::to_string(i + 1) + " " + names_[i % kKept];
  }
  return text;
}

}  // namespace moe
