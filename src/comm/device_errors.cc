#include "comm/device_errors.h"

#include <c10/util/Exception.h>

#include "common/error.h"

namespace moe {

void with_device_errors(const std::function<void()>& work) {
  try {
    work();
  } catch (const c10::OutOfMemoryError& error) {
    throw HardwareError(message_of(error) +
                        "; train with fewer micro_batch_rows (and more micro_steps) or a shorter sequence_length, "
                        "spread the experts over more ranks, or take a GPU with more memory");
  } catch (const c10::AcceleratorError& error) {
    throw HardwareError(message_of(error));
  }
}

}  // namespace moe
