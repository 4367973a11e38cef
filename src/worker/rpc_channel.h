#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "common/error.h"

namespace moe {

/// A plain-text channel to a host:port that comes back quickly after the other side was away.
std::shared_ptr<grpc::Channel> make_channel(const std::string& target);

/// A context whose call ends by the deadline.
std::unique_ptr<grpc::ClientContext> context_for(std::chrono::milliseconds timeout);

/// The error that a failed call stands for: Fenced (ABORTED), Unavailable (UNAVAILABLE, DEADLINE_EXCEEDED),
/// InvalidArgument or Internal otherwise.
[[noreturn]] void throw_rpc_error(const std::string& call, const grpc::Status& status);

}  // namespace moe
