#pragma once

#include <string>

#include "coordinator/coordinator.h"

namespace moe {

/// Reason of a job whose gang was not heard of in time; the only one from which it may be taken up again.
inline constexpr char kLeaseExpired[] = "LEASE_EXPIRED";
inline constexpr char kGangRestarted[] = "GANG_RESTARTED";
inline constexpr char kGangLeft[] = "GANG_LEFT";
/// Every reason for which a job loses its lease; metrics count them from 0.
inline constexpr const char* kLeaseLosses[] = {kLeaseExpired, kGangRestarted, kGangLeft};
/// Reason of a job whose attempt failed in a way that another one may not.
inline constexpr char kAttemptFailed[] = "ATTEMPT_FAILED";
/// Reasons of a job that its gang could not begin: another may.
inline constexpr char kInputsUnreadable[] = "INPUTS_UNREADABLE";
inline constexpr char kNoRoom[] = "NO_ROOM";

/// The same bytes for the same message: maps are written in the order of their keys.
std::string canonical_bytes(const google::protobuf::Message& message);

/// Unix time in microseconds.
int64_t to_micros(const google::protobuf::Timestamp& stamp);

/// Exit codes of moe-worker that tell of the gang and its machine, not of the job.
bool is_own_failure(int exit_code);

/// The place of a job in the queue.
QueuedJob queue_entry(const v1::Job& job);

/// What one call changes. On destruction without commit() nothing reached the store, which is why calls check
/// everything before they change anything. Lives under the coordinator's lock.
class Coordinator::Operation {
 public:
  Operation(Coordinator& coordinator, std::string actor) : coordinator_(coordinator), actor_(std::move(actor)) {}

  const std::string& actor() const { return actor_; }
  void event(const std::string& pipeline_id, const std::string& job_id, const std::string& type,
             const std::string& message);
  void changed(const v1::Job& job) { jobs_.insert(job.id()); }
  void changed(const PipelineEntry& pipeline) { pipelines_.insert(pipeline.record.id()); }
  Changes& changes() { return changes_; }
  /// Hands everything to the store and wakes long polls.
  void commit();

 private:
  Coordinator& coordinator_;
  std::string actor_;
  Changes changes_;
  std::set<std::string> jobs_;
  std::set<std::string> pipelines_;
};

/// Runs a mutation once per request_id: a repeated call gets the first answer, one with other content ALREADY_EXISTS.
template <typename Request, typename Response>
absl::StatusOr<Response> Coordinator::once(const char* method, const Request& request,
                                           const std::function<absl::StatusOr<Response>(Operation&)>& work) {
  const std::lock_guard lock(mutex_);
  const std::string digest = xxh3_hex(canonical_bytes(request));
  if (request.request_id().empty())
    return absl::InvalidArgumentError(
        "request_id is empty; give every call a new one, and the same one when repeating it");
  if (const auto found = requests_.find(request.request_id()); found != requests_.end()) {
    if (found->second.method != method || found->second.body_digest != digest) {
      return absl::AlreadyExistsError(
          concat("request_id ", request.request_id(), " was used before for another ", found->second.method, " call"));
    }
    Response response;
    response.ParseFromString(found->second.response);
    return response;
  }
  Operation operation(*this, request.user().empty() ? "user" : "user " + request.user());
  absl::StatusOr<Response> response = work(operation);
  if (!response.ok()) return response;
  remember(operation, {request.request_id(), method, digest, response->SerializeAsString(), now_micros()});
  operation.commit();
  return response;
}

}  // namespace moe
