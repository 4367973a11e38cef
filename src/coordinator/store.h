#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "moe/v1/job_service.pb.h"
#include "moe/v1/state.pb.h"

struct sqlite3;

namespace moe {

class Statement;

/// The answer that a request_id got.
struct StoredRequest {
  std::string request_id;
  std::string method;
  std::string body_digest;
  std::string response;  ///< serialised
  int64_t created = 0;   ///< microseconds since the epoch
};

struct StoredPoint {
  std::string job_id;
  v1::MetricPoint point;
};

/// What one operation of the coordinator changes; it reaches the database whole or not at all.
struct Changes {
  std::vector<v1::Pipeline> pipelines;
  std::vector<v1::Job> jobs;
  std::vector<v1::Gang> gangs;
  std::vector<std::string> removed_gangs;
  std::vector<v1::GangFaults> gang_faults;
  std::vector<std::string> removed_gang_faults;  ///< launchers
  std::vector<v1::Artifact> artifacts;
  std::vector<v1::Event> events;
  std::vector<StoredRequest> requests;
  std::vector<StoredPoint> points;
  std::vector<std::pair<std::string, int64_t>> removed_points;  ///< job, step
  int64_t forget_requests_before = 0;                           ///< microseconds since the epoch

  bool empty() const;
};

/// Everything that the coordinator keeps in memory, as it starts.
struct StoredState {
  std::vector<v1::Pipeline> pipelines;
  std::vector<v1::Job> jobs;
  std::vector<v1::Gang> gangs;
  std::vector<v1::GangFaults> gang_faults;
  std::vector<v1::Artifact> artifacts;
  std::vector<v1::Event> events;  ///< the newest
  std::vector<StoredRequest> requests;
  std::vector<StoredPoint> points;
};

/// The coordinator's SQLite file: one connection in exclusive mode (which is also the lock against a second
/// coordinator), WAL, synchronous FULL. Changes queue up and a thread commits all that wait in one transaction (group
/// commit). Any failed commit ends the process with exit code 74: an error reply could not tell whether the change is
/// there. Thread-safe.
class Store {
 public:
  /// Opens or creates and migrates. Throws InvalidArgument (in use, newer than this program, not a database or not
  /// ours, on a network file system, below a folder that is not there) or StorageError.
  explicit Store(const std::filesystem::path& file);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// Id of the data root that the store belongs to; empty: of none yet. Both before load().
  std::string root_id() const;
  void set_root_id(const std::string& id);

  /// Jobs that a gang was given: each has its folder in the data root. Before load().
  std::vector<std::string> begun_jobs() const;

  /// Once, before the first commit.
  StoredState load();

  /// Queues the changes; order of calls is order of commits.
  void commit(Changes changes);
  /// Calls `done`, on the store's thread or right here, when everything queued so far is durable.
  void after_commit(std::function<void()> done);
  /// Told how long each commit took, on the store's thread. Set before the first commit.
  void on_commit(std::function<void(double seconds)> observer) { observer_ = std::move(observer); }

  static constexpr int kSchemaVersion = 3;

 private:
  struct Pending {
    Changes changes;
    std::function<void()> done;
  };

  void run();
  /// Calls that waited for what is durable now, up to the next change.
  void answer_waiting();
  void write(const Changes& changes);
  /// The statement of this SQL, prepared once.
  Statement& prepared(const char* sql);

  std::filesystem::path file_;
  std::unique_ptr<sqlite3, int (*)(sqlite3*)> database_;
  std::map<const char*, std::unique_ptr<Statement>> statements_;  ///< by the literal that they were made of
  std::function<void(double)> observer_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Pending> queue_;
  bool is_committing_ = false;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace moe
