#include "worker/devices.h"

#include "comm/agreement.h"
#include "comm/mpi_session.h"
#include "model/device.h"

namespace moe {

void open_cuda_on_ranks(const std::string& cuda_library, Communicator& world) {
  const int place = local_rank();
  agree(world, "open CUDA", [&] { open_cuda(cuda_library, place); });
}

}  // namespace moe
