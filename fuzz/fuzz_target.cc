#include "fuzz_target.h"

#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "common/error.h"

namespace moe::fuzz {
namespace {

constexpr size_t kLongestMessage = 4000;

/// What was allocated since a parse began; the hooks are of the sanitizers' run-time, which has no room for a context.
struct Watch {
  bool is_on = false;
  size_t largest = 0;
  size_t live = 0;
  size_t peak = 0;
};

Watch& watch() {
  static Watch the_watch;
  return the_watch;
}

void on_malloc(const volatile void*, size_t size) {
  Watch& w = watch();
  if (!w.is_on) return;
  w.largest = std::max(w.largest, size);
  w.live += size;
  w.peak = std::max(w.peak, w.live);
}

void on_free(const volatile void* pointer) {
  Watch& w = watch();
  if (!w.is_on || pointer == nullptr) return;
  w.live -= std::min(w.live, __sanitizer_get_allocated_size(const_cast<const void*>(pointer)));
}

[[noreturn]] void report(const std::string& what) {
  watch().is_on = false;
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

size_t bytes_of(const MemoryBound& bound, size_t size) {
  return static_cast<size_t>(bound.bytes_per_byte * static_cast<double>(size)) + bound.fixed;
}

void check_message(const char* text) {
  const size_t length = std::strlen(text);
  if (std::strncmp(text, kWhere, sizeof kWhere - 1) != 0)
    report(std::string("the message does not name the file: ") + text);
  if (length > kLongestMessage) report(concat("a message of ", length, " bytes: ", std::string(text, 400)));
}

}  // namespace

void check(const uint8_t* data, size_t size, const MemoryBound& largest, const MemoryBound& total,
           const std::function<void(std::string_view)>& parse) {
  static std::once_flag installed;
  std::call_once(installed, [] { __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free); });
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  Watch& w = watch();
  w = {.is_on = true};
  std::string message;
  try {
    parse(input);
  } catch (const InvalidArgument& error) {
    w.is_on = false;
    check_message(error.what());
  } catch (const std::exception& error) {
    report(std::string("an exception of another kind: ") + error.what());
  }
  w.is_on = false;
  if (w.largest > bytes_of(largest, size))
    report(concat("one allocation of ", w.largest, " bytes for an input of ", size));
  if (w.peak > bytes_of(total, size)) report(concat("memory of ", w.peak, " bytes for an input of ", size));
}

}  // namespace moe::fuzz
