#include "cuda_host/context.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "cuda_host/sanitizers.h"

/// Keeps the callee-saved registers on this stack and its end in *from, and goes on where `to` was left.
extern "C" void moe_cuda_host_switch(void** from, void* to);
asm(R"(
.text
.type moe_cuda_host_switch, @function
moe_cuda_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace moe::cuda_host {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr int kSavedRegisters = 6;
constexpr unsigned kNoSync = 1;  // __tsan_switch_to_fiber_no_sync: only barriers order threads of a block

void announce_switch(void** fake_stack, const Context& to) {
  if (has_address_sanitizer()) __sanitizer_start_switch_fiber(fake_stack, to.bottom, to.bytes);
  if (has_thread_sanitizer()) __tsan_switch_to_fiber(to.tsan_fiber, kNoSync);
}

}  // namespace

Stack::Stack() {
  void* const mapping = mmap(nullptr, kGuardBytes + kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  bottom_ = static_cast<char*>(mapping) + kGuardBytes;
  if (mprotect(bottom_, kBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
}
Stack::Stack(Stack&& other) noexcept : bottom_(std::exchange(other.bottom_, nullptr)) {}
Stack& Stack::operator=(Stack&& other) noexcept {
  std::swap(bottom_, other.bottom_);
  return *this;
}
Stack::~Stack() {
  if (bottom_ != nullptr) munmap(bottom_ - kGuardBytes, kGuardBytes + kBytes);
}

void adopt_thread(Context& thread) {
  if (has_thread_sanitizer()) thread.tsan_fiber = __tsan_get_current_fiber();
}

void begin(Context& context, const Stack& stack, void (*entry)()) {
  context = {};
  context.bottom = stack.bottom();
  context.bytes = Stack::kBytes;
  // What `ret` of the switch goes to, above it room for the return address that a called function expects, below it
  // what the switch takes for registers.
  void** const top = reinterpret_cast<void**>(stack.bottom() + Stack::kBytes) - 2;
  top[0] = reinterpret_cast<void*>(entry);
  for (int i = 1; i <= kSavedRegisters; ++i) top[-i] = nullptr;
  context.stack_pointer = top - kSavedRegisters;
  if (has_thread_sanitizer()) context.tsan_fiber = __tsan_create_fiber(0);
}

void arrive(Context& from) {
  if (has_address_sanitizer()) __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.bytes);
}

void switch_context(Context& from, Context& to) {
  announce_switch(&from.asan_fake_stack, to);
  moe_cuda_host_switch(&from.stack_pointer, to.stack_pointer);
  if (has_address_sanitizer()) __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
}

void leave(Context& from, Context& to) {
  announce_switch(nullptr, to);
  moe_cuda_host_switch(&from.stack_pointer, to.stack_pointer);
  std::abort();  // nobody switches back
}

void end(Context& context) {
  // Frames that were given up never took back what they marked.
  if (has_address_sanitizer()) __asan_unpoison_memory_region(context.bottom, context.bytes);
  if (has_thread_sanitizer()) __tsan_destroy_fiber(context.tsan_fiber);
}

}  // namespace moe::cuda_host
