#include "comm/nccl_library.h"

#include <dlfcn.h>

#include "common/error.h"

namespace moe {
namespace {

constexpr char kFile[] = "libnccl.so.2";

NcclLibrary load() {
  void* const library = ::dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw HardwareError(concat("NCCL cannot be loaded: ", ::dlerror(),
                               "; install it with `bash deploy/install_deps.sh --cuda`, or let ranks exchange through "
                               "host memory (--collectives staged)"));
  }
  NcclLibrary functions{};
  const auto find = [library](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) throw HardwareError(concat(kFile, " has no function ", name, ": it is too old"));
  };
  find(functions.get_version, "ncclGetVersion");
  find(functions.get_error_string, "ncclGetErrorString");
  find(functions.get_last_error, "ncclGetLastError");
  find(functions.get_unique_id, "ncclGetUniqueId");
  find(functions.init_rank, "ncclCommInitRankConfig");
  find(functions.get_async_error, "ncclCommGetAsyncError");
  find(functions.abort, "ncclCommAbort");
  find(functions.destroy, "ncclCommDestroy");
  find(functions.group_start, "ncclGroupStart");
  find(functions.group_end, "ncclGroupEnd");
  find(functions.send, "ncclSend");
  find(functions.receive, "ncclRecv");
  find(functions.broadcast, "ncclBroadcast");
  return functions;
}

}  // namespace

const NcclLibrary& nccl_library() {
  static const NcclLibrary library = load();
  return library;
}

}  // namespace moe
