#pragma once

#include <nccl.h>

#include <string>

namespace moe {

/// The functions of NCCL that we call, of the library that is in the process already (LibTorch's CUDA brings one) or is
/// found by its name: nothing of it is linked. Needs its header when built.
struct NcclLibrary {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init_rank;
  decltype(&ncclCommGetAsyncError) get_async_error;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) receive;
  decltype(&ncclBroadcast) broadcast;
};

/// Loaded on the first call, for ever. Throws HardwareError, with the loader's reason. Thread-safe.
const NcclLibrary& nccl_library();

}  // namespace moe
