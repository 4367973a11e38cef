#include "cli/client.h"

#include <grpcpp/grpcpp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>

#include "moe/v1/job_service.grpc.pb.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using Stub = v1::JobService::StubInterface;

/// A call that asks for nothing slow is answered within this, or something is wrong. Long polls add their wait.
constexpr int kDeadlineSeconds = 10;
constexpr int kTries = 3;
constexpr milliseconds kShortestPause{50};
constexpr milliseconds kFirstPause{200};
constexpr milliseconds kLongestPause{1000};

void check_address(const std::string& address) {
  const size_t colon = address.rfind(':');
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool is_number = !port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == std::string::npos;
  if (colon == 0 || !is_number || std::stoi(port) < 1 || std::stoi(port) > 65535) {
    throw CommandError(ExitStatus::kUsage,
                       concat("--coordinator ", address, ": not HOST:PORT; for example 127.0.0.1:7070"));
  }
}

/// gRPC wraps the system's word ("Connection refused") in addresses and retries.
std::string reason_of(const grpc::Status& status) {
  const std::string text = status.error_message();
  const size_t colon = text.rfind(": ");
  return colon == std::string::npos || colon + 2 >= text.size() ? text : text.substr(colon + 2);
}

/// The call may not have reached a coordinator that works. CANCELLED comes from one that is stopping; nothing here
/// cancels.
bool is_away(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE || status.error_code() == grpc::StatusCode::CANCELLED;
}

CommandError error_of(const grpc::Status& status, const std::string& address, int deadline_seconds) {
  switch (status.error_code()) {
    case grpc::StatusCode::INVALID_ARGUMENT: return {ExitStatus::kUsage, status.error_message()};
    case grpc::StatusCode::NOT_FOUND: return {ExitStatus::kNotFound, status.error_message()};
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::ALREADY_EXISTS: return {ExitStatus::kConflict, status.error_message()};
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:
      return {ExitStatus::kUnavailable, concat("no coordinator at ", address, " (", reason_of(status),
                                               "); start one with moe-coordinator or give --coordinator")};
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return {ExitStatus::kTimeout, concat("the coordinator at ", address, " did not answer within ", deadline_seconds,
                                           " s; look at its log, or give another --coordinator")};
    case grpc::StatusCode::UNIMPLEMENTED:
      return {ExitStatus::kFailed,
              concat("what answers at ", address, " does not know this call (", status.error_message(),
                     "): no moe-coordinator, or one of another version; `moectl version` tells")};
    default:
      return {ExitStatus::kFailed, concat("the coordinator at ", address, " failed (code ", status.error_code(),
                                          "): ", status.error_message())};
  }
}

}  // namespace

struct Client::Connection {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::JobService::Stub> stub;

  /// Lets time pass before the next try, less when a lost connection is there again: then true.
  bool pause(milliseconds longest) const {
    std::this_thread::sleep_for(kShortestPause);
    if (channel->GetState(true) != GRPC_CHANNEL_READY)
      return channel->WaitForConnected(std::chrono::system_clock::now() + longest);
    std::this_thread::sleep_for(longest);
    return false;
  }
};

Client::Client(std::string address) : address_(std::move(address)), connection_(std::make_unique<Connection>()) {
  check_address(address_);
  grpc::ChannelArguments arguments;
  // A retry shall really connect again, also while gRPC thinks that it is too early.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3000);
  // Coordinators are on this machine or in the cluster, never behind a web proxy.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, 64 << 20);
  connection_->channel = grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments);
  connection_->stub = v1::JobService::NewStub(connection_->channel);
}

Client::~Client() = default;

void Client::set_patience(milliseconds patience, std::function<void(const std::string&)> note) {
  patience_ = patience;
  note_ = std::move(note);
}

template <typename Method, typename Request, typename Response>
Response Client::call(Method method, const Request& request, Response response, int wait_seconds) {
  const int deadline_seconds = kDeadlineSeconds + wait_seconds;
  milliseconds pause = kFirstPause;
  Clock::time_point away_since{};
  bool noted = false;
  for (int tries = 1;; ++tries) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(deadline_seconds));
    const grpc::Status status = (connection_->stub.get()->*method)(&context, request, &response);
    if (status.ok()) {
      has_answered_ = true;
      return response;
    }
    const bool is_patient = has_answered_ && patience_.count() > 0;
    const bool may_retry =
        is_away(status) || (is_patient && status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
    if (!may_retry) throw error_of(status, address_, deadline_seconds);
    if (tries == 1) away_since = Clock::now();
    if (tries >= kTries && (!is_patient || Clock::now() - away_since >= patience_)) {
      throw error_of(status, address_, deadline_seconds);
    }
    if (tries >= kTries && !noted) {
      noted = true;
      note_(concat("the coordinator at ", address_, " is away (", reason_of(status), "); trying again for up to ",
                   patience_.count() / 1000, " s"));
    }
    if (connection_->pause(pause) && noted) {
      noted = false;
      note_(concat("the coordinator at ", address_, " is back"));
    }
    pause = std::min(2 * pause, kLongestPause);
    response.Clear();
  }
}

v1::SubmitResponse Client::submit(const v1::SubmitRequest& request) {
  return call(&Stub::Submit, request, v1::SubmitResponse());
}

v1::ListPipelinesResponse Client::list_pipelines(const v1::ListRequest& request) {
  return call(&Stub::ListPipelines, request, v1::ListPipelinesResponse());
}

v1::ListJobsResponse Client::list_jobs(const v1::ListRequest& request) {
  return call(&Stub::ListJobs, request, v1::ListJobsResponse());
}

v1::ListGangsResponse Client::list_gangs(const v1::ListRequest& request) {
  return call(&Stub::ListGangs, request, v1::ListGangsResponse());
}

v1::ListArtifactsResponse Client::list_artifacts(const v1::ListRequest& request) {
  return call(&Stub::ListArtifacts, request, v1::ListArtifactsResponse());
}

v1::Pipeline Client::get_pipeline(const std::string& id) {
  v1::GetRequest request;
  request.set_id(id);
  return call(&Stub::GetPipeline, request, v1::Pipeline());
}

v1::Job Client::get_job(const std::string& id) {
  v1::GetRequest request;
  request.set_id(id);
  return call(&Stub::GetJob, request, v1::Job());
}

v1::WatchResponse Client::watch(const v1::WatchRequest& request) {
  return call(&Stub::Watch, request, v1::WatchResponse(), request.wait_seconds());
}

v1::ReadLogsResponse Client::read_logs(const v1::ReadLogsRequest& request) {
  return call(&Stub::ReadLogs, request, v1::ReadLogsResponse(), request.wait_seconds());
}

v1::QueryMetricsResponse Client::query_metrics(const v1::QueryMetricsRequest& request) {
  return call(&Stub::QueryMetrics, request, v1::QueryMetricsResponse());
}

v1::ControlResponse Client::control(Control what, const v1::ControlRequest& request) {
  switch (what) {
    case Control::kCancel: return call(&Stub::Cancel, request, v1::ControlResponse());
    case Control::kPause: return call(&Stub::Pause, request, v1::ControlResponse());
    case Control::kResume: return call(&Stub::Resume, request, v1::ControlResponse());
    case Control::kReadmit: return call(&Stub::ReadmitGang, request, v1::ControlResponse());
    case Control::kRetry: break;
  }
  return call(&Stub::Retry, request, v1::ControlResponse());
}

v1::ControlResponse Client::decide_gate(const v1::DecideGateRequest& request) {
  return call(&Stub::DecideGate, request, v1::ControlResponse());
}

v1::ServerInfo Client::server_info() {
  return call(&Stub::GetServerInfo, v1::GetServerInfoRequest(), v1::ServerInfo());
}

std::string make_request_id() {
  std::random_device source;
  std::array<uint32_t, 4> bits{source(), source(), source(), source()};
  bits[1] = (bits[1] & 0xFFFF0FFFu) | 0x4000u;
  bits[2] = (bits[2] & 0x3FFFFFFFu) | 0x80000000u;
  char text[37];
  std::snprintf(text, sizeof text, "%08x-%04x-%04x-%04x-%04x%08x", bits[0], bits[1] >> 16, bits[1] & 0xFFFFu,
                bits[2] >> 16, bits[2] & 0xFFFFu, bits[3]);
  return text;
}

std::string user_name() {
  for (const char* variable : {"USER", "LOGNAME"}) {
    if (const char* name = std::getenv(variable); name != nullptr && *name != '\0') return excerpt(name);
  }
  const passwd* entry = getpwuid(getuid());
  return entry != nullptr ? excerpt(entry->pw_name) : concat("uid ", getuid());
}

}  // namespace moe
