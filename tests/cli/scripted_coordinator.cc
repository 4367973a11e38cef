#include "cli/scripted_coordinator.h"

#include <chrono>
#include <stdexcept>

namespace moe::testing {

using grpc::ServerContext;
using grpc::Status;

class ScriptedCoordinator::Service : public v1::JobService::Service {
 public:
  explicit Service(ScriptedCoordinator& script) : script_(script) {}

  Status Submit(ServerContext*, const v1::SubmitRequest* request, v1::SubmitResponse* response) override {
    return answer(script_.on_submit, *request, *response);
  }
  Status ListPipelines(ServerContext*, const v1::ListRequest* request, v1::ListPipelinesResponse* response) override {
    return answer(script_.on_list_pipelines, *request, *response);
  }
  Status GetPipeline(ServerContext*, const v1::GetRequest* request, v1::Pipeline* response) override {
    if (!script_.on_get_pipeline) return {grpc::StatusCode::NOT_FOUND, "no pipeline '" + request->id() + "'"};
    return answer(script_.on_get_pipeline, *request, *response);
  }
  Status ListJobs(ServerContext*, const v1::ListRequest* request, v1::ListJobsResponse* response) override {
    return answer(script_.on_list_jobs, *request, *response);
  }
  Status GetJob(ServerContext*, const v1::GetRequest* request, v1::Job* response) override {
    if (!script_.on_get_job) return {grpc::StatusCode::NOT_FOUND, "no job '" + request->id() + "'"};
    return answer(script_.on_get_job, *request, *response);
  }
  Status ListGangs(ServerContext*, const v1::ListRequest* request, v1::ListGangsResponse* response) override {
    return answer(script_.on_list_gangs, *request, *response);
  }
  Status ListArtifacts(ServerContext*, const v1::ListRequest* request, v1::ListArtifactsResponse* response) override {
    return answer(script_.on_list_artifacts, *request, *response);
  }
  Status Watch(ServerContext*, const v1::WatchRequest* request, v1::WatchResponse* response) override {
    return answer(script_.on_watch, *request, *response);
  }
  Status ReadLogs(ServerContext*, const v1::ReadLogsRequest* request, v1::ReadLogsResponse* response) override {
    return answer(script_.on_read_logs, *request, *response);
  }
  Status QueryMetrics(ServerContext*, const v1::QueryMetricsRequest* request,
                      v1::QueryMetricsResponse* response) override {
    return answer(script_.on_query_metrics, *request, *response);
  }
  Status Cancel(ServerContext*, const v1::ControlRequest* request, v1::ControlResponse* response) override {
    return control("cancel", *request, *response);
  }
  Status Pause(ServerContext*, const v1::ControlRequest* request, v1::ControlResponse* response) override {
    return control("pause", *request, *response);
  }
  Status Resume(ServerContext*, const v1::ControlRequest* request, v1::ControlResponse* response) override {
    return control("resume", *request, *response);
  }
  Status Retry(ServerContext*, const v1::ControlRequest* request, v1::ControlResponse* response) override {
    return control("retry", *request, *response);
  }
  Status ReadmitGang(ServerContext*, const v1::ControlRequest* request, v1::ControlResponse* response) override {
    return control("readmit", *request, *response);
  }
  Status DecideGate(ServerContext*, const v1::DecideGateRequest* request, v1::ControlResponse* response) override {
    return answer(script_.on_decide_gate, *request, *response);
  }
  Status GetServerInfo(ServerContext*, const v1::GetServerInfoRequest* request, v1::ServerInfo* response) override {
    return answer(script_.on_server_info, *request, *response);
  }

 private:
  template <typename Request, typename Response>
  Status answer(const Answer<Request, Response>& script, const Request& request, Response& response) {
    if (!script) return {grpc::StatusCode::UNIMPLEMENTED, "not written by this test"};
    const std::lock_guard<std::mutex> lock(mutex_);
    return script(request, response);
  }

  Status control(const char* verb, const v1::ControlRequest& request, v1::ControlResponse& response) {
    return answer<v1::ControlRequest, v1::ControlResponse>(
        [&](const v1::ControlRequest& what, v1::ControlResponse& result) {
          return script_.on_control(verb, what, result);
        },
        request, response);
  }

  ScriptedCoordinator& script_;
  std::mutex mutex_;
};

ScriptedCoordinator::ScriptedCoordinator() : service_(std::make_unique<Service>(*this)) {
  start();
}

ScriptedCoordinator::~ScriptedCoordinator() {
  stop();
}

void ScriptedCoordinator::stop() {
  if (!server_) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void ScriptedCoordinator::start() {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port_), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  if (!server_ || port == 0) throw std::runtime_error("cannot listen on port " + std::to_string(port_));
  port_ = port;
}

std::string ScriptedCoordinator::address() const {
  return "127.0.0.1:" + std::to_string(port_);
}

}  // namespace moe::testing
