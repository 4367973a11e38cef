#include "cuda_host/torch/record.h"

#include <mutex>
#include <utility>

#include "cuda_host/torch/record_keeping.h"

namespace moe::cuda_host {
namespace {

struct Record {
  std::mutex mutex;
  std::map<std::string, int64_t> operators;
  int64_t waits = 0;
  std::string last_wait;
};

Record& record() {
  static auto* const record = new Record;
  return *record;
}

}  // namespace

void count_operator(const std::string& name) {
  const std::lock_guard<std::mutex> lock(record().mutex);
  ++record().operators[name];
}

void count_host_wait(const std::string& name) {
  const std::lock_guard<std::mutex> lock(record().mutex);
  ++record().waits;
  record().last_wait = name;
}

std::map<std::string, int64_t> operators_run() {
  const std::lock_guard<std::mutex> lock(record().mutex);
  return record().operators;
}

int64_t host_waits() {
  const std::lock_guard<std::mutex> lock(record().mutex);
  return record().waits;
}

std::string last_host_wait() {
  const std::lock_guard<std::mutex> lock(record().mutex);
  return record().last_wait;
}

}  // namespace moe::cuda_host
