#include "common/write_all.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace moe {

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      pollfd writable{descriptor, POLLOUT, 0};
      ::poll(&writable, 1, -1);  // an error that ends the wait is the next write's
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace moe
