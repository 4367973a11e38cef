#include "cli/coordinator_process.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/data_root.h"
#include "testing/free_port.h"
#include "testing/paths.h"

namespace moe::testing {
namespace {

constexpr char kGang[] = "gang-of-the-test";

}  // namespace

CoordinatorProcess::CoordinatorProcess() : port_(free_port()) {
  start();
}

void CoordinatorProcess::kill() {
  process_->signal(SIGKILL);
  process_->wait(std::chrono::seconds(20));
}

void CoordinatorProcess::start() {
  process_ = std::make_unique<BackgroundProcess>(
      std::vector<std::string>{build_dir() + "/bin/moe-coordinator", "--data-root", data_root().string(), "--store",
                               (folder_ / "store.db").string(), "--port", std::to_string(port_), "--http-port", "0"},
      folder_ / ("log-" + std::to_string(++starts_)));
  const auto serves = [&] { return process_->output().find("event=serving") != std::string::npos; };
  if (!eventually(std::chrono::seconds(20), serves)) {
    throw std::runtime_error("moe-coordinator does not serve: " + process_->output());
  }
}

std::string CoordinatorProcess::address() const {
  return "127.0.0.1:" + std::to_string(port_);
}

PretendedGang::PretendedGang(const std::string& address, std::filesystem::path data_root)
    : data_root_(std::move(data_root)) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  stub_ = v1::WorkerService::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

template <typename Method, typename Request, typename Response>
Response PretendedGang::call(Method method, const Request& request, Response response) {
  // Every call may be repeated; the first after a restart may still use the old connection.
  grpc::Status status;
  for (int tries = 0; tries < 3; ++tries) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    status = (stub_.get()->*method)(&context, request, &response);
    if (status.ok()) return response;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
  }
  throw std::runtime_error("the gang's call failed: " + status.error_message());
}

void PretendedGang::join() {
  v1::RegisterGangRequest request;
  request.set_root_id(read_root_id(data_root_).value_or(""));
  v1::Gang& gang = *request.mutable_gang();
  gang.set_id(kGang);
  gang.set_device("cpu");
  for (int rank = 0; rank < 2; ++rank) {
    gang.add_ranks()->set_rank(rank);
    gang.mutable_ranks(rank)->set_node("here");
  }
  auto& known = *gang.mutable_capabilities()->mutable_known();
  known["methods"].add_names("sequential");
  known["tasks"].add_names("perplexity");
  call(&v1::WorkerService::StubInterface::RegisterGang, request, v1::RegisterGangResponse());
}

v1::Lease PretendedGang::lease() {
  v1::AcquireLeaseRequest request;
  request.set_gang_id(kGang);
  request.set_wait_seconds(20);
  const auto answer = call(&v1::WorkerService::StubInterface::AcquireLease, request, v1::AcquireLeaseResponse());
  if (!answer.has_lease()) throw std::runtime_error("no job came");
  return answer.lease();
}

void PretendedGang::heartbeat(const v1::Lease& lease, int64_t step, int64_t target) {
  v1::HeartbeatRequest request;
  request.set_gang_id(kGang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  v1::Progress& progress = *request.mutable_progress();
  progress.set_phase("training");
  progress.set_unit("step");
  progress.set_step(step);
  progress.set_target(target);
  progress.set_loss(1.75);
  progress.set_tokens_per_second(5210);
  call(&v1::WorkerService::StubInterface::Heartbeat, request, v1::HeartbeatResponse());
}

void PretendedGang::report(const v1::Lease& lease, int64_t steps) {
  v1::ReportMetricsRequest request;
  request.set_gang_id(kGang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  for (int64_t step = 1; step <= steps; ++step) {
    v1::MetricPoint& point = *request.add_points();
    point.set_step(step);
    (*point.mutable_values())["loss"] = 5 - 0.25 * static_cast<double>(step);
  }
  for (int layer = 0; layer < 2; ++layer) {
    v1::LayerLoad& load = *request.add_expert_load();
    for (const int64_t tokens : {100, 300, 100, 300}) load.add_tokens(tokens);
    v1::LayerLoad& attention = *request.add_attention_expert_load();
    for (const int64_t tokens : {100, 200, 300}) attention.add_tokens(tokens);
  }
  call(&v1::WorkerService::StubInterface::ReportMetrics, request, v1::ReportMetricsResponse());
}

void PretendedGang::append_log(const v1::Lease& lease, const std::string& text) {
  char attempt[16];
  std::snprintf(attempt, sizeof attempt, "%04d", lease.attempt());
  const std::filesystem::path folder = data_root_ / lease.job_id() / "attempts" / attempt / "logs";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "gang.log", std::ios::app) << text;
}

void PretendedGang::succeed(const v1::Lease& lease) {
  char output[32];
  std::snprintf(output, sizeof output, "/output-t%04d", lease.attempt());
  v1::CompleteAttemptRequest request;
  request.set_gang_id(kGang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  request.set_outcome(v1::ATTEMPT_OUTCOME_SUCCEEDED);
  request.set_output_path(lease.job_id() + output);
  request.set_output_digest("00ff");
  (*request.mutable_metrics())["loss"] = 2.5;
  std::filesystem::create_directories(data_root_ / request.output_path());
  std::ofstream(data_root_ / request.output_path() / "STAGE.json") << "{}";
  call(&v1::WorkerService::StubInterface::CompleteAttempt, request, v1::CompleteAttemptResponse());
}

void PretendedGang::fail(const v1::Lease& lease, const std::string& message) {
  v1::CompleteAttemptRequest request;
  request.set_gang_id(kGang);
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  request.set_outcome(v1::ATTEMPT_OUTCOME_PERMANENT);
  request.set_exit_code(65);
  request.set_message(message);
  call(&v1::WorkerService::StubInterface::CompleteAttempt, request, v1::CompleteAttemptResponse());
}

}  // namespace moe::testing
