#include "coordinator/rpc_fixture.h"

#include <stdexcept>

#include "common/error.h"
#include "metrics/metrics.h"

namespace moe::testing {

RpcFixture::RpcFixture()
    : metrics_(page_),
      job_adapter_({core.coordinator(), core.store(), long_polls_, metrics_}),
      worker_adapter_({core.coordinator(), core.store(), long_polls_, metrics_}) {
  core.on_change = [this] { long_polls_.notify(); };
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&job_adapter_);
  builder.RegisterService(&worker_adapter_);
  server_ = builder.BuildAndStart();
  if (!server_) throw std::runtime_error("no gRPC server on loopback");
  const auto channel = grpc::CreateChannel(concat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  jobs = v1::JobService::NewStub(channel);
  workers = v1::WorkerService::NewStub(channel);
}

RpcFixture::~RpcFixture() {
  close();
  core.on_change = [] {};
}

void RpcFixture::close() {
  long_polls_.close();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
}

int RpcFixture::answered(const std::string& method, const std::string& code) const {
  const std::string text = page_.text();
  for (const std::string& labels :
       {concat("method=\"", method, "\",code=\"", code, "\""), concat("code=\"", code, "\",method=\"", method, "\"")}) {
    const std::string series = concat("moe_rpc_requests_total{", labels, "} ");
    if (const size_t at = text.find(series); at != std::string::npos) return std::stoi(text.substr(at + series.size()));
  }
  return 0;
}

}  // namespace moe::testing
