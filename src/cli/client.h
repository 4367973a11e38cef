#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "cli/exit_status.h"
#include "moe/v1/job_service.pb.h"

/// The coordinator as moectl sees it: every call has a deadline, is tried again with the same message while the
/// coordinator is away, and ends in an answer or in a CommandError that says what to do. Used by all commands; one
/// thread.
namespace moe {

/// How long a call waits for news at the coordinator before it asks again.
inline constexpr int kPollSeconds = 20;

enum class Control { kCancel, kPause, kResume, kRetry, kReadmit };

class Client {
 public:
  /// `address` is "host:port". Connects with the first call. Throws CommandError(kUsage) for another form.
  explicit Client(std::string address);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// For commands that follow something: once the coordinator has answered, it may be away for this long. `note` is
  /// told when it goes and when it comes back.
  void set_patience(std::chrono::milliseconds patience, std::function<void(const std::string&)> note);

  v1::SubmitResponse submit(const v1::SubmitRequest& request);
  v1::ListPipelinesResponse list_pipelines(const v1::ListRequest& request);
  v1::ListJobsResponse list_jobs(const v1::ListRequest& request);
  v1::ListGangsResponse list_gangs(const v1::ListRequest& request);
  v1::ListArtifactsResponse list_artifacts(const v1::ListRequest& request);
  v1::Pipeline get_pipeline(const std::string& id);
  v1::Job get_job(const std::string& id);
  v1::WatchResponse watch(const v1::WatchRequest& request);
  v1::ReadLogsResponse read_logs(const v1::ReadLogsRequest& request);
  v1::QueryMetricsResponse query_metrics(const v1::QueryMetricsRequest& request);
  v1::ControlResponse control(Control what, const v1::ControlRequest& request);
  v1::ControlResponse decide_gate(const v1::DecideGateRequest& request);
  v1::ServerInfo server_info();

  const std::string& address() const { return address_; }

 private:
  struct Connection;

  template <typename Method, typename Request, typename Response>
  Response call(Method method, const Request& request, Response response, int wait_seconds = 0);

  std::string address_;
  std::unique_ptr<Connection> connection_;
  std::chrono::milliseconds patience_{0};
  std::function<void(const std::string&)> note_;
  bool has_answered_ = false;
};

/// A random UUID (version 4): one per mutation, kept over its retries.
std::string make_request_id();

/// Login name of the person at the keyboard, for the coordinator's history.
std::string user_name();

}  // namespace moe
