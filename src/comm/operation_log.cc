#include "comm/operation_log.h"

#include <algorithm>

namespace moe {

std::string OperationLog::recent(uint64_t how_many) const {
  const uint64_t available = std::min({how_many, count_, kKept});
  std::string text;
  for (uint64_t i = count_ - available; i < count_; ++i) {
    text += (text.empty() ? "" : ", ") + std::to_string(i + 1) + " " + names_[i % kKept];
  }
  return text;
}

}  // namespace moe
