#include "comm/communicator.h"

#include "common/error.h"

namespace moe {

std::string Communicator::broadcast_bytes(std::string_view bytes, int root, std::string_view op) {
  return all_gather_bytes(rank() == root ? bytes : std::string_view(), op)[root];
}

std::vector<int64_t> Communicator::exchange_counts(std::span<const int64_t> counts, std::string_view op, int64_t each) {
  MOE_CHECK(static_cast<int64_t>(counts.size()) == size() * each, op, ": ", each, " counts per rank");
  const std::vector<int64_t> ones(static_cast<size_t>(size()), 1);
  const at::Tensor sent =
      at::tensor(at::ArrayRef<int64_t>(counts.data(), counts.size()), at::kLong).view({size(), each});
  const at::Tensor received = all_to_all(sent, ones, ones, op);
  const int64_t* values = received.const_data_ptr<int64_t>();
  return {values, values + received.numel()};
}

}  // namespace moe
