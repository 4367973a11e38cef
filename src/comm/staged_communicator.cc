#include "comm/staged_communicator.h"

#include <utility>

#include "comm/hosted_communicator.h"

namespace moe {
namespace {

class StagedWork final : public Work {
 public:
  StagedWork(std::unique_ptr<Work> host, at::Device device) : host_(std::move(host)), device_(device) {}

  at::Tensor wait(std::chrono::milliseconds limit) override { return host_->wait(limit).to(device_); }
  at::Tensor wait() override { return host_->wait().to(device_); }

 private:
  std::unique_ptr<Work> host_;
  at::Device device_;
};

class StagedCommunicator final : public HostedCommunicator {
 public:
  explicit StagedCommunicator(Communicator& host) : HostedCommunicator(host) {}
  explicit StagedCommunicator(std::unique_ptr<Communicator> host) : HostedCommunicator(std::move(host)) {}

  void all_reduce_sum(at::Tensor& tensor, std::string_view op) override {
    if (tensor.is_cpu() || size() > 1) on_host(tensor, [&](at::Tensor& values) { host().all_reduce_sum(values, op); });
  }
  void broadcast(at::Tensor& tensor, int root, std::string_view op) override {
    if (tensor.is_cpu() || size() > 1) on_host(tensor, [&](at::Tensor& values) { host().broadcast(values, root, op); });
  }
  std::unique_ptr<Work> start_reduce_scatter_sum(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                 std::string_view op) override {
    return staged(host().start_reduce_scatter_sum(tensor.cpu(), rows, op), tensor);
  }
  std::unique_ptr<Work> start_all_gather(const at::Tensor& tensor, std::span<const int64_t> rows,
                                         std::string_view op) override {
    return staged(host().start_all_gather(tensor.cpu(), rows, op), tensor);
  }
  at::Tensor all_gather(const at::Tensor& tensor, std::string_view op) override {
    return host().all_gather(tensor.cpu(), op).to(tensor.device());
  }
  std::unique_ptr<Work> start_all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows,
                                         std::span<const int64_t> recv_rows, std::string_view op) override {
    return staged(host().start_all_to_all(rows.cpu(), send_rows, recv_rows, op), rows);
  }
  std::unique_ptr<Communicator> split(int color, std::string_view op) override {
    return std::make_unique<StagedCommunicator>(host().split(color, op));
  }

 private:
  template <typename Collective>
  static void on_host(at::Tensor& tensor, const Collective& collective) {
    if (tensor.is_cpu()) return collective(tensor);
    at::Tensor values = tensor.detach().cpu();
    collective(values);
    tensor.detach().copy_(values);
  }

  static std::unique_ptr<Work> staged(std::unique_ptr<Work> work, const at::Tensor& sent) {
    if (sent.is_cpu()) return work;
    return std::make_unique<StagedWork>(std::move(work), sent.device());
  }
};

}  // namespace

std::unique_ptr<Communicator> make_staged(Communicator& host) {
  return std::make_unique<StagedCommunicator>(host);
}

}  // namespace moe
