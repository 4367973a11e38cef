#pragma once

#include <cstddef>

/// Stacks of execution within one OS thread, and the switch between them. x86-64. Not thread-safe: a context stays on
/// the OS thread that began it.
namespace moe::cuda_host {

/// Memory for one stack, above a page that faults when it overflows.
class Stack {
 public:
  static constexpr size_t kBytes = size_t{256} << 10;  // touched pages alone cost memory; sanitizers need the most

  Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  Stack(Stack&& other) noexcept;
  Stack& operator=(Stack&& other) noexcept;
  ~Stack();

  char* bottom() const { return bottom_; }

 private:
  char* bottom_;
};

/// Where an execution was left, and what the sanitizers know about it.
struct Context {
  void* stack_pointer = nullptr;
  const void* bottom = nullptr;
  size_t bytes = 0;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
};

/// For the OS thread itself: must be called before it switches to another context.
void adopt_thread(Context& thread);

/// The first switch to it calls `entry` on `stack`, which must call arrive(the context it was switched from) first and
/// must end with leave.
void begin(Context& context, const Stack& stack, void (*entry)());
void arrive(Context& from);

/// Goes on where `to` was left; returns when somebody switches back to `from`.
void switch_context(Context& from, Context& to);

/// As above, for good: what is on the stack of `from` is never looked at again, and no destructor of it runs.
[[noreturn]] void leave(Context& from, Context& to);

/// After `context` left, or when nobody will switch to it any more.
void end(Context& context);

}  // namespace moe::cuda_host
