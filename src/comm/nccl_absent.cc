// In place of nccl_*.cc where NCCL's header is missing.
#include "comm/nccl_communicator.h"
#include "common/error.h"

namespace moe {

std::string load_nccl() {
  throw InvalidArgument(
      "this build knows no NCCL (its header was not there): add --collectives staged, or build where nccl.h is");
}

std::unique_ptr<Communicator> make_nccl(Communicator& /*host*/, std::chrono::milliseconds /*timeout*/) {
  load_nccl();
  return nullptr;
}

}  // namespace moe
