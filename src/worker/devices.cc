#include "worker/devices.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include "comm/agreement.h"
#include "comm/mpi_session.h"
#include "comm/nccl_communicator.h"
#include "comm/staged_communicator.h"
#include "common/error.h"
#include "model/device.h"

namespace moe {
namespace {

constexpr char kNccl[] = "nccl", kStaged[] = "staged";

/// NCCL wants a GPU for each rank.
void require_own_gpu(int place) {
  require_nccl();
  const int gpus = c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount();
  if (place < gpus) return;
  throw InvalidArgument(concat("this node has ", place + 1, " or more ranks and ", gpus, gpus == 1 ? " GPU" : " GPUs",
                               ", and NCCL gives each rank one of its own: start as many ranks as GPUs, or let ranks "
                               "share them with --collectives staged"));
}

}  // namespace

std::shared_ptr<DeviceOptions> add_device_options(CLI::App& command) {
  auto options = std::make_shared<DeviceOptions>();
  command.add_option("--cuda-library", options->cuda_library,
                     "libmoe_cuda.so, for jobs with gang.device cuda (default: beside this program)");
  command
      .add_option("--collectives", options->collectives,
                  "How GPUs exchange: by NCCL, one a rank, or staged through host memory and MPI")
      ->capture_default_str()
      ->check(CLI::IsMember({kNccl, kStaged}));
  return options;
}

std::unique_ptr<Communicator> open_devices(const DeviceOptions& options, Communicator& world,
                                           std::chrono::milliseconds timeout) {
  const int place = local_rank();
  const bool is_nccl = options.collectives == kNccl;
  agree(world, "open CUDA", [&] {
    open_cuda(options.cuda_library, place);
    if (is_nccl && world.size() > 1) require_own_gpu(place);
  });
  return is_nccl && world.size() > 1 ? make_nccl(world, timeout) : make_staged(world);
}

}  // namespace moe
