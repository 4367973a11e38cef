#include "common/exit_code.h"

#include <filesystem>

#include "common/error.h"

namespace moe {

ExitCode exit_code_for(const std::exception& error) {
  const auto is = [&error]<typename T>(const T*) { return dynamic_cast<const T*>(&error) != nullptr; };
  if (is(static_cast<const UsageError*>(nullptr))) return ExitCode::kUsage;
  if (is(static_cast<const InvalidArgument*>(nullptr))) return ExitCode::kBadInput;
  if (is(static_cast<const HardwareError*>(nullptr))) return ExitCode::kHardware;
  if (is(static_cast<const StorageError*>(nullptr))) return ExitCode::kStorage;
  if (is(static_cast<const Unavailable*>(nullptr))) return ExitCode::kUnavailable;
  if (is(static_cast<const Fenced*>(nullptr))) return ExitCode::kFenced;
  if (is(static_cast<const Timeout*>(nullptr))) return ExitCode::kHang;
  if (is(static_cast<const Diverged*>(nullptr))) return ExitCode::kDiverged;
  if (is(static_cast<const NoReadableCheckpoint*>(nullptr))) return ExitCode::kNoReadableCheckpoint;
  if (is(static_cast<const std::filesystem::filesystem_error*>(nullptr))) return ExitCode::kStorage;
  return ExitCode::kInternal;
}

}  // namespace moe
