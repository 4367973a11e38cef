#include "comm/operation_log.h"

#include <algorithm>

namespace moe {

uint64_t OperationLog::add(std::string_view op) {
  names_[count_ % kKept] = op;
  return ++count_;
}

void OperationLog::set_current(std::string_view op, uint64_t number, bool is_after_work) {
  current_ = {std::string(op), number, /*is_in_flight=*/true, is_after_work, std::chrono::steady_clock::now()};
}

uint64_t OperationLog::begin(std::string_view op, bool is_after_work) {
  const std::lock_guard lock(mutex_);
  const uint64_t number = add(op);
  set_current(op, number, is_after_work);
  return number;
}

uint64_t OperationLog::start(std::string_view op) {
  const std::lock_guard lock(mutex_);
  return add(op);
}

void OperationLog::begin_wait(std::string_view op, uint64_t number) {
  const std::lock_guard lock(mutex_);
  set_current(op, number, /*is_after_work=*/false);
}

void OperationLog::end(int64_t sent_bytes) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (observer_) observer_(current_.name, std::chrono::duration<double>(now - current_.since).count(), sent_bytes);
  current_.is_in_flight = false;
  current_.since = now;
}

void OperationLog::observe(Observer observer) {
  const std::lock_guard lock(mutex_);
  observer_ = std::move(observer);
}

OperationState OperationLog::state() const {
  const std::lock_guard lock(mutex_);
  return current_;
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
