#include "worker/devices.h"

#include <torch/headeronly/version.h>

#include <map>
#include <vector>

#include "comm/agreement.h"
#include "comm/mpi_session.h"
#include "comm/nccl_communicator.h"
#include "comm/staged_communicator.h"
#include "common/error.h"
#include "common/log.h"
#include "model/device.h"

namespace moe {
namespace {

constexpr char kNccl[] = "nccl", kStaged[] = "staged";

/// NCCL wants a GPU for each rank. Ranks may each see GPUs of their own (a launcher sets CUDA_VISIBLE_DEVICES): numbers
/// do not tell. Collective.
void require_own_gpus(const kernels::CudaDevice& gpu, Communicator& world) {
  const std::vector<std::string> all = world.all_gather_bytes(gpu.uuid, "GPUs of ranks");
  std::map<std::string, size_t> rank_of;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto [other, is_new] = rank_of.emplace(all[rank], rank);
    if (is_new) continue;
    throw_agreed<InvalidArgument>(concat("ranks ", other->second, " and ", rank, " come to the same GPU (", all[rank],
                                         "), and NCCL gives each rank one of its own: start as many ranks on a node as "
                                         "it has GPUs, or let ranks share them with --collectives staged"));
  }
}

std::string cuda_text(int version) {
  return concat(version / 1000, ".", version % 1000 / 10);
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

OpenedDevices open_devices(const DeviceOptions& options, Communicator& world, std::chrono::milliseconds timeout) {
  const int place = local_rank();
  const bool is_nccl = options.collectives == kNccl && world.size() > 1;
  kernels::CudaDevice gpu;
  std::string nccl;
  agree(world, "open CUDA", [&] {
    gpu = open_cuda(options.cuda_library, place);
    if (is_nccl) nccl = load_nccl();
  });
  if (is_nccl) require_own_gpus(gpu, world);
  if (world.rank() == 0) {
    log_info(concat("event=cuda_opened gpu=\"", gpu.name, "\" memory_bytes=", gpu.memory_bytes,
                    " driver_cuda=", cuda_text(gpu.driver_cuda), " cuda=", cuda_text(gpu.runtime_cuda),
                    " nccl=", nccl.empty() ? "none" : nccl, " torch=", TORCH_VERSION));
  }
  return {is_nccl ? make_nccl(world, timeout) : make_staged(world), gpu.name, nccl};
}

}  // namespace moe
