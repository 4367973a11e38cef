#include "coordinator/rpc_reply.h"

#include <unistd.h>

#include <string>

#include "common/error.h"
#include "common/exit_code.h"
#include "common/log.h"

namespace moe {
namespace {

std::string code_name(absl::StatusCode code) {
  return code == absl::StatusCode::kOk ? "OK" : absl::StatusCodeToString(code);
}

}  // namespace

void stop_after(const char* method, const std::exception& error) {
  log_error(concat("event=internal_error method=", method, " reason=\"", error.what(),
                   "\"; nothing acknowledged is lost: start again and report this line"));
  ::_exit(static_cast<int>(ExitCode::kInternal));
}

// absl::StatusCode has gRPC's numbers. A status travels as a header, of which gRPC takes 8 KiB, with each byte of a
// character that is not ASCII as three.
grpc::Status to_grpc(const absl::Status& status) {
  constexpr size_t kMost = 2000;
  return {static_cast<grpc::StatusCode>(status.code()), printable(std::string(status.message()), kMost)};
}

void finish(const RpcParts& parts, grpc::ServerUnaryReactor* reactor, const char* method,
            std::chrono::steady_clock::time_point started, const absl::Status& status) {
  CoordinatorMetrics& metrics = parts.metrics;
  parts.store.after_commit([&metrics, reactor, method, started, status] {
    metrics.rpc(method, code_name(status.code()),
                std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    reactor->Finish(to_grpc(status));
  });
}

}  // namespace moe
