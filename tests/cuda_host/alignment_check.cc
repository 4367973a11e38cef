// What g++ calls where -fsanitize=alignment, with which .cu files are compiled, finds an access through a pointer that
// is not a multiple of its type's alignment. A GPU faults there; x86 mostly does not. Records: libubsan,
// ubsan_handlers.h.
#include <cstdint>
#include <string>

#include "cuda_host/fibers.h"

namespace {

struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];  // as long as it is
};

struct TypeMismatch {
  const char* file;
  uint32_t line, column;
  const TypeDescriptor* type;
  unsigned char log_alignment, access;
};

}  // namespace

extern "C" [[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(const TypeMismatch* found, uintptr_t address) {
  const uintptr_t alignment = uintptr_t{1} << found->log_alignment;
  const std::string where =
      std::string(" of ") + found->type->name + " at " + found->file + ":" + std::to_string(found->line);
  if (address % alignment == 0) {
    moe::cuda_host::fault(cudaErrorIllegalAddress, "access through a null pointer, or beyond an object," + where);
  }
  moe::cuda_host::fault(cudaErrorMisalignedAddress, "an access that needs " + std::to_string(alignment) +
                                                        " bytes of alignment has " +
                                                        std::to_string(address & (~address + 1)) + "," + where);
}
