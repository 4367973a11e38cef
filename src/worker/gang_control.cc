#include "worker/gang_control.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "common/log.h"
#include "worker/rpc_channel.h"

namespace moe {
namespace {

using std::chrono::milliseconds;

constexpr char kSecretKey[] = "moe-gang-secret";
/// How long the leader keeps a call of an idle and of a working rank.
constexpr milliseconds kHoldIdle{5000};
constexpr milliseconds kHoldRunning{400};
/// How often the leader looks whether an attached rank is still there.
constexpr milliseconds kLook{50};
constexpr milliseconds kCallMargin{5000};
/// A rank whose call of Attach broke calls again after this long.
constexpr milliseconds kAttachAgain{100};
/// The leader looks at least this often, unless it stands still.
constexpr milliseconds kStoodStill{5000};
/// After that its ranks need this long to connect again.
constexpr milliseconds kReconnect{3000};
/// A leader that refuses connections for this long is gone.
constexpr milliseconds kLeaderGone{5000};

}  // namespace

GangControlServer::GangControlServer(int ranks, const std::string& address, std::string secret)
    : secret_(std::move(secret)), ranks_(ranks) {
  last_look_ = std::chrono::steady_clock::now();
  for (RankState& rank : ranks_) rank.heard = last_look_;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address + ":0", grpc::InsecureServerCredentials(), &port_);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  if (!server_ || port_ == 0)
    throw HardwareError(concat("cannot listen on ", address, " for the gang's control service"));
}

GangControlServer::~GangControlServer() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  changed_.notify_all();
  server_->Shutdown(std::chrono::system_clock::now() + milliseconds(200));
}

bool GangControlServer::order_for(const v1::RankReport& report, v1::RankOrder* order) const {
  order->set_order_id(order_id_);
  if (kind_ == v1::ORDER_KIND_EXIT && report.phase() != v1::RANK_PHASE_RUNNING) {
    order->set_kind(kind_);
    order->set_exit_code(exit_code_);
    return true;
  }
  if (kind_ == v1::ORDER_KIND_PREPARE && report.phase() == v1::RANK_PHASE_IDLE && report.order_id() < order_id_) {
    order->set_kind(kind_);
    order->set_lease(lease_);
    return true;
  }
  const bool is_decided = kind_ == v1::ORDER_KIND_START || kind_ == v1::ORDER_KIND_DROP;
  if (is_decided && report.phase() == v1::RANK_PHASE_READY && report.order_id() == order_id_) {
    order->set_kind(kind_);
    return true;
  }
  return false;
}

std::variant<GangControlServer::RankState*, grpc::Status> GangControlServer::caller(const grpc::ServerContext& context,
                                                                                    int rank) {
  const auto secret = context.client_metadata().find(kSecretKey);
  if (secret == context.client_metadata().end() ||
      std::string(secret->second.data(), secret->second.size()) != secret_) {
    return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "wrong secret: not a rank of this gang");
  }
  if (rank < 1 || rank >= static_cast<int>(ranks_.size()))
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no such rank");
  return &ranks_[rank];
}

grpc::Status GangControlServer::Report(grpc::ServerContext* context, const v1::RankReport* report,
                                       v1::RankOrder* order) {
  const auto found = caller(*context, report->rank());
  if (const auto* refusal = std::get_if<grpc::Status>(&found)) return *refusal;
  RankState& state = *std::get<RankState*>(found);
  std::unique_lock lock(mutex_);
  state.report = *report;
  state.heard = std::chrono::steady_clock::now();
  ++state.waiting;
  changed_.notify_all();
  changed_.wait_for(lock, report->phase() == v1::RANK_PHASE_RUNNING ? kHoldRunning : kHoldIdle,
                    [&] { return is_closing_ || order_for(*report, order); });
  --state.waiting;
  // Its process ended, or the call's deadline passed while this process stood still.
  if (context->IsCancelled()) return grpc::Status::CANCELLED;
  state.heard = std::chrono::steady_clock::now();
  if (order->kind() == v1::ORDER_KIND_EXIT) {
    state.has_left = true;
    changed_.notify_all();
  }
  return grpc::Status::OK;
}

grpc::Status GangControlServer::Attach(grpc::ServerContext* context, const v1::AttachRequest* request,
                                       v1::AttachResponse* /*response*/) {
  const auto found = caller(*context, request->rank());
  if (const auto* refusal = std::get_if<grpc::Status>(&found)) return *refusal;
  RankState& state = *std::get<RankState*>(found);
  std::unique_lock lock(mutex_);
  const int64_t attachment = ++state.attachments;
  state.gone.reset();
  changed_.notify_all();
  while (!is_closing_) {
    if (context->IsCancelled()) {
      if (attachment == state.attachments) state.gone = std::chrono::steady_clock::now();
      changed_.notify_all();
      return grpc::Status::CANCELLED;
    }
    changed_.wait_for(lock, kLook);
  }
  return grpc::Status::OK;
}

void GangControlServer::await_ranks(milliseconds timeout) {
  std::unique_lock lock(mutex_);
  const auto is_missing = [](const RankState& state) { return state.attachments == 0; };
  const auto missing = [&] { return std::find_if(ranks_.begin() + 1, ranks_.end(), is_missing); };
  if (changed_.wait_for(lock, timeout, [&] { return missing() == ranks_.end(); })) return;
  throw Timeout(concat("rank ", missing() - ranks_.begin(), " did not reach the leader's control port ", port_,
                       " within ", timeout.count() / 1000,
                       " s; the ranks of a gang must reach the leader's machine over TCP"));
}

std::optional<v1::Refusal> GangControlServer::prepare(const std::string& lease, milliseconds timeout) {
  std::unique_lock lock(mutex_);
  kind_ = v1::ORDER_KIND_PREPARE;
  lease_ = lease;
  ++order_id_;
  changed_.notify_all();
  const auto answered = [&](const RankState& state) {
    return state.report.phase() == v1::RANK_PHASE_READY && state.report.order_id() == order_id_;
  };
  const auto all_answered = [&] { return std::all_of(ranks_.begin() + 1, ranks_.end(), answered); };
  if (!changed_.wait_for(lock, timeout, all_answered)) {
    for (size_t rank = 1; rank < ranks_.size(); ++rank) {
      if (!answered(ranks_[rank]))
        throw Timeout(
            concat("rank ", rank, " did not answer within ", timeout.count() / 1000, " s when a job was to start"));
    }
  }
  for (size_t rank = 1; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].report.has_refusal()) continue;
    v1::Refusal refusal = ranks_[rank].report.refusal();
    for (std::string& problem : *refusal.mutable_problems()) problem = concat("rank ", rank, ": ", problem);
    return refusal;
  }
  return std::nullopt;
}

void GangControlServer::start() {
  const std::lock_guard lock(mutex_);
  kind_ = v1::ORDER_KIND_START;
  changed_.notify_all();
}

void GangControlServer::drop() {
  const std::lock_guard lock(mutex_);
  kind_ = v1::ORDER_KIND_DROP;
  changed_.notify_all();
}

void GangControlServer::exit(int code) {
  std::unique_lock lock(mutex_);
  kind_ = v1::ORDER_KIND_EXIT;
  exit_code_ = code;
  changed_.notify_all();
  changed_.wait_for(lock, milliseconds(2000), [&] {
    return std::all_of(ranks_.begin() + 1, ranks_.end(),
                       [](const RankState& state) { return state.has_left || state.gone.has_value(); });
  });
}

std::optional<RankTrouble> GangControlServer::trouble(milliseconds hang_timeout, milliseconds gone_after) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (now - std::exchange(last_look_, now) > kStoodStill) {
    reconnect_until_ = now + kReconnect;
    for (RankState& state : ranks_) state.heard = now;
  }
  for (size_t rank = 1; rank < ranks_.size(); ++rank) {
    const RankState& state = ranks_[rank];
    const std::string number = std::to_string(rank);
    if (state.gone && now - *state.gone >= gone_after && now > reconnect_until_ && !state.has_left) {
      return RankTrouble{static_cast<int>(rank), true, false, "rank " + number + " ended: its process is gone"};
    }
    if (state.report.phase() == v1::RANK_PHASE_RUNNING && !state.report.error().empty()) {
      return RankTrouble{static_cast<int>(rank), false, true, "rank " + number + ": " + state.report.error()};
    }
  }
  if (kind_ == v1::ORDER_KIND_PREPARE) return std::nullopt;  // prepare() has a longer term of its own
  for (size_t rank = 1; rank < ranks_.size(); ++rank) {
    const RankState& state = ranks_[rank];
    const auto silent = now - state.heard;
    if (silent <= hang_timeout || state.waiting > 0 || state.has_left) continue;
    std::string where = "before its first collective";
    if (state.report.operation_number() > 0) {
      where = concat(state.report.operation_age_ms() > 0 ? "in" : "after", " collective '", state.report.operation(),
                     "' (operation ", state.report.operation_number(), ")");
    }
    return RankTrouble{static_cast<int>(rank), false, false,
                       concat("rank ", rank, " gives no sign of life for ",
                              std::chrono::duration<double>(silent).count(), " s; it was ", where)};
  }
  return std::nullopt;
}

GangControlClient::GangControlClient(const std::string& target, std::string secret, int rank)
    : secret_(std::move(secret)),
      rank_(rank),
      stub_(v1::GangControl::NewStub(make_channel(target))),
      thread_([this] { stay_attached(); }) {}

GangControlClient::~GangControlClient() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    if (attachment_ != nullptr) attachment_->TryCancel();
  }
  wake_.notify_all();
  thread_.join();
}

void GangControlClient::stay_attached() {
  v1::AttachRequest request;
  request.set_rank(rank_);
  std::unique_lock lock(mutex_);
  while (!is_closing_) {
    grpc::ClientContext context;
    context.AddMetadata(kSecretKey, secret_);
    attachment_ = &context;
    lock.unlock();
    v1::AttachResponse response;
    stub_->Attach(&context, request,
                  &response);  // an answer and an error mean the same: call again, unless this rank ends
    lock.lock();
    attachment_ = nullptr;
    wake_.wait_for(lock, kAttachAgain, [this] { return is_closing_; });
  }
}

v1::RankReport GangControlClient::report_for(v1::RankPhase phase, int64_t order_id) const {
  v1::RankReport report;
  report.set_rank(rank_);
  report.set_phase(phase);
  report.set_order_id(order_id);
  return report;
}

grpc::Status GangControlClient::call(const v1::RankReport& report, v1::RankOrder* order, milliseconds timeout) {
  const auto context = context_for(timeout);
  context->AddMetadata(kSecretKey, secret_);
  return stub_->Report(context.get(), report, order);
}

v1::RankOrder GangControlClient::next_order(v1::RankPhase phase, int64_t order_id, const v1::Refusal& refusal) {
  v1::RankReport report = report_for(phase, order_id);
  if (refusal.kind() != v1::REFUSAL_KIND_UNSPECIFIED) *report.mutable_refusal() = refusal;
  auto last_answer = std::chrono::steady_clock::now();
  while (true) {
    v1::RankOrder order;
    const grpc::Status status = call(report, &order, kHoldIdle + kCallMargin);
    const auto now = std::chrono::steady_clock::now();
    if (status.ok()) {
      last_answer = now;
      if (order.kind() != v1::ORDER_KIND_UNSPECIFIED) return order;
    } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      if (now - last_answer > kLeaderGone + kHoldIdle)
        throw HardwareError("the leader of the gang is gone: " + status.error_message());
      std::this_thread::sleep_for(milliseconds(200));
    } else if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED &&
               status.error_code() != grpc::StatusCode::CANCELLED) {
      throw Internal("the gang's control service refused this rank: " + status.error_message());
    }
  }
}

bool GangControlClient::report_running(int64_t order_id, const OperationState& operation, const std::string& error) {
  v1::RankReport report = report_for(v1::RANK_PHASE_RUNNING, order_id);
  report.set_error(printable(error));
  report.set_operation(operation.name);
  report.set_operation_number(operation.number);
  if (operation.is_in_flight) {
    report.set_operation_age_ms(std::max<int64_t>(
        1, std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - operation.since).count()));
  }
  v1::RankOrder order;
  const grpc::Status status = call(report, &order, kHoldRunning + kCallMargin);
  return status.error_code() != grpc::StatusCode::UNAVAILABLE;
}

}  // namespace moe
