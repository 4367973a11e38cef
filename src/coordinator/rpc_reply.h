#pragma once

#include <absl/status/statusor.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>

#include "coordinator/coordinator.h"
#include "coordinator/long_polls.h"
#include "metrics/coordinator_metrics.h"

/// How an RPC is answered: the coordinator's result, once it is durable, with its code counted. All RPCs of both
/// services go through here.
namespace moe {

struct RpcParts {
  Coordinator& coordinator;
  Store& store;
  LongPolls& long_polls;
  CoordinatorMetrics& metrics;
};

inline constexpr int kLongestWaitSeconds = 30;

grpc::Status to_grpc(const absl::Status& status);

/// Ends the process: an exception out of the coordinator means that what is in memory may not be what is stored.
/// Nothing acknowledged is lost, and the next start goes on from the store.
[[noreturn]] void stop_after(const char* method, const std::exception& error);

/// Finishes the call when everything that its answer may show is durable.
void finish(const RpcParts& parts, grpc::ServerUnaryReactor* reactor, const char* method,
            std::chrono::steady_clock::time_point started, const absl::Status& status);

template <typename Response>
grpc::ServerUnaryReactor* reply(const RpcParts& parts, grpc::CallbackServerContext* context, const char* method,
                                Response* response, const std::function<absl::StatusOr<Response>()>& call) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto started = std::chrono::steady_clock::now();
  try {
    absl::StatusOr<Response> result = call();
    if (result.ok()) *response = *std::move(result);
    finish(parts, reactor, method, started, result.status());
  } catch (const std::exception& error) {
    stop_after(method, error);
  }
  return reactor;
}

/// Asks `call` until `is_answer` likes what it says, it fails, or `wait_seconds` are over. A client that went away is
/// not asked for.
template <typename Response>
grpc::ServerUnaryReactor* reply_when(const RpcParts& parts, grpc::CallbackServerContext* context, const char* method,
                                     Response* response, int wait_seconds,
                                     std::function<absl::StatusOr<Response>()> call,
                                     std::function<bool(const Response&)> is_answer) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto started = std::chrono::steady_clock::now();
  const auto deadline = started + std::chrono::seconds(std::clamp(wait_seconds, 0, kLongestWaitSeconds));
  auto attempt = [=, call = std::move(call), is_answer = std::move(is_answer)](bool is_last) {
    if (context->IsCancelled()) {
      finish(parts, reactor, method, started, absl::CancelledError("the client went away"));
      return true;
    }
    try {
      absl::StatusOr<Response> result = call();
      if (result.ok() && !is_last && !is_answer(*result)) return false;
      if (result.ok()) *response = *std::move(result);
      finish(parts, reactor, method, started, result.status());
    } catch (const std::exception& error) {
      stop_after(method, error);
    }
    return true;
  };
  if (!attempt(wait_seconds <= 0)) parts.long_polls.wait(deadline, std::move(attempt));
  return reactor;
}

}  // namespace moe
