#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "comm/operation_log.h"
#include "moe/v1/gang_control.grpc.pb.h"

namespace moe {

/// What is wrong with a rank, as the leader sees it.
struct RankTrouble {
  int rank = 0;
  bool is_gone = false;    ///< its process ended; else it gives no sign of life
  bool is_failed = false;  ///< it reported an error of its own
  std::string message;
};

/// The leader's service inside a gang: hands jobs to the other ranks and watches them, without MPI. A rank keeps a call
/// of Attach open, which breaks when its process dies, and waits in calls of Report, which are missing when it stands
/// still. Thread-safe.
class GangControlServer final : public v1::GangControl::Service {
 public:
  /// `ranks` with the leader's. Callers must know the secret. Throws HardwareError if no port can be had.
  GangControlServer(int ranks, const std::string& address, std::string secret);
  ~GangControlServer() override;

  int port() const { return port_; }

  /// Waits until every other rank is attached. Throws Timeout.
  void await_ranks(std::chrono::milliseconds timeout);
  /// Shows the lease to all other ranks; the first that cannot begin says why. Nullopt: all are ready. Throws Timeout.
  std::optional<v1::Refusal> prepare(const std::string& lease, std::chrono::milliseconds timeout);
  /// All ranks run the prepared job.
  void start();
  /// All ranks forget it.
  void drop();
  /// All ranks leave with this code; waits a little for them to hear.
  void exit(int code);

  /// The first trouble, if any. Asked several times a second; after a longer pause (this process stood still) every
  /// rank gets a new term. A rank is gone if its call broke and none followed within `gone_after`.
  std::optional<RankTrouble> trouble(std::chrono::milliseconds hang_timeout, std::chrono::milliseconds gone_after);

  grpc::Status Report(grpc::ServerContext* context, const v1::RankReport* report, v1::RankOrder* order) override;
  grpc::Status Attach(grpc::ServerContext* context, const v1::AttachRequest* request,
                      v1::AttachResponse* response) override;

 private:
  struct RankState {
    v1::RankReport report;
    std::chrono::steady_clock::time_point heard;
    int waiting = 0;  ///< its calls of Report that wait for an order: silence means nothing
    int64_t attachments = 0;
    std::optional<std::chrono::steady_clock::time_point> gone;  ///< when its last call of Attach broke
    bool has_left = false;
  };

  /// The caller's state, or why it is none of this gang's ranks.
  std::variant<RankState*, grpc::Status> caller(const grpc::ServerContext& context, int rank);

  /// What the rank is to do now; false: nothing new.
  bool order_for(const v1::RankReport& report, v1::RankOrder* order) const;

  const std::string secret_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<RankState> ranks_;
  v1::OrderKind kind_ = v1::ORDER_KIND_UNSPECIFIED;
  int64_t order_id_ = 0;
  std::string lease_;
  int exit_code_ = 0;
  bool is_closing_ = false;
  std::chrono::steady_clock::time_point last_look_, reconnect_until_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

/// Another rank's side: attached to the leader as long as it lives. Used by the rank's main thread while idle, by a
/// thread of its own while a job runs.
class GangControlClient {
 public:
  GangControlClient(const std::string& target, std::string secret, int rank);
  ~GangControlClient();
  GangControlClient(const GangControlClient&) = delete;
  GangControlClient& operator=(const GangControlClient&) = delete;

  /// Waits for the next order. Throws HardwareError when the leader is gone.
  v1::RankOrder next_order(v1::RankPhase phase, int64_t order_id, const v1::Refusal& refusal);
  /// A sign of life with the collective this rank is in. False: the leader's process is gone.
  bool report_running(int64_t order_id, const OperationState& operation, const std::string& error);

 private:
  v1::RankReport report_for(v1::RankPhase phase, int64_t order_id) const;
  grpc::Status call(const v1::RankReport& report, v1::RankOrder* order, std::chrono::milliseconds timeout);
  void stay_attached();

  const std::string secret_;
  const int rank_;
  std::unique_ptr<v1::GangControl::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable wake_;
  grpc::ClientContext* attachment_ = nullptr;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace moe
