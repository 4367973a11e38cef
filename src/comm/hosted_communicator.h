#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace moe {

/// What communicators of GPU tensors share: the group, bytes and barriers are those of one of the host.
class HostedCommunicator : public Communicator {
 public:
  int rank() const final { return host_.rank(); }
  int size() const final { return host_.size(); }
  std::vector<std::string> all_gather_bytes(std::string_view bytes, std::string_view op) final {
    return host().all_gather_bytes(bytes, op);
  }
  std::vector<std::string> all_gather_bytes_after_work(std::string_view bytes, std::string_view op) final {
    return host().all_gather_bytes_after_work(bytes, op);
  }
  void barrier(std::string_view op) final { host().barrier(op); }
  std::shared_ptr<OperationLog> operations() const final { return host_.operations(); }

 protected:
  /// `host` must outlive this.
  explicit HostedCommunicator(Communicator& host) : host_(host) {}
  explicit HostedCommunicator(std::unique_ptr<Communicator> host) : owned_(std::move(host)), host_(*owned_) {}

  /// For a collective of the host: after before_host().
  Communicator& host() const {
    before_host();
    return host_;
  }

 private:
  /// May throw why this rank is to begin no more collectives.
  virtual void before_host() const {}

  std::unique_ptr<Communicator> owned_;
  Communicator& host_;
};

}  // namespace moe
