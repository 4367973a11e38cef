#include "coordinator/store.h"

#include <sys/statfs.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "common/log.h"
#include "coordinator/sqlite.h"
#include "pipeline/moved_fields.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Numbered steps of the schema: step n brings version n - 1 to n.
constexpr const char* kMigrations[] = {
    "CREATE TABLE pipeline (id TEXT PRIMARY KEY, phase TEXT NOT NULL, record BLOB NOT NULL) STRICT;"
    "CREATE TABLE job (id TEXT PRIMARY KEY, pipeline_id TEXT NOT NULL REFERENCES pipeline(id), state INTEGER NOT NULL,"
    "                  attempt INTEGER NOT NULL, record BLOB NOT NULL) STRICT;"
    "CREATE TABLE gang (id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;"
    "CREATE TABLE artifact (id TEXT PRIMARY KEY, job_id TEXT NOT NULL REFERENCES job(id), digest TEXT NOT NULL,"
    "                       record BLOB NOT NULL) STRICT;"
    "CREATE TABLE event (revision INTEGER PRIMARY KEY, pipeline_id TEXT NOT NULL, job_id TEXT NOT NULL, type TEXT NOT "
    "NULL,"
    "                    record BLOB NOT NULL) STRICT;"
    "CREATE TABLE request (id TEXT PRIMARY KEY, method TEXT NOT NULL, body_digest TEXT NOT NULL, response BLOB NOT "
    "NULL,"
    "                      created INTEGER NOT NULL) STRICT;"
    "CREATE TABLE metric_point (job_id TEXT NOT NULL REFERENCES job(id), step INTEGER NOT NULL, record BLOB NOT NULL,"
    "                           PRIMARY KEY (job_id, step)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX job_by_pipeline ON job(pipeline_id);"
    "CREATE INDEX request_by_time ON request(created);",
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"
    "CREATE TABLE gang_faults (launcher_id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;",
    // Conversions have sections. load() reads what was written before; a program that knew none would misread these.
    "",
};
static_assert(std::size(kMigrations) == Store::kSchemaVersion);

constexpr int64_t kEventsInMemory = 20'000;

/// WAL needs shared memory on one machine.
void refuse_network_file_system(const fs::path& file) {
  struct statfs info {};
  if (statfs(fs::absolute(file).parent_path().c_str(), &info) != 0) return;
  for (const long type : {0x6969L /* NFS */, 0x0BD00BD0L /* Lustre */, 0xFF534D42L /* CIFS */}) {
    if (static_cast<long>(info.f_type) == type) {
      throw InvalidArgument(
          concat(file.string(),
                 " is on a network file system, where SQLite cannot keep its promises; give --store a local path"));
    }
  }
}

int64_t user_version(sqlite3* database) {
  Statement statement(database, "PRAGMA user_version");
  statement.step();
  return statement.integer_at(0);
}

bool has_tables(sqlite3* database) {
  Statement tables(database, "SELECT count(*) FROM sqlite_schema");
  tables.step();
  return tables.integer_at(0) > 0;  // the statement ends here: VACUUM allows none beside it
}

void migrate(sqlite3* database, const fs::path& file) {
  const int64_t version = user_version(database);
  if (version > Store::kSchemaVersion) {
    throw InvalidArgument(concat(file.string(), " was written by a newer moe-coordinator (schema ", version,
                                 ", this one knows ", Store::kSchemaVersion, "); use the newer program"));
  }
  if (version <= 0 && has_tables(database)) {
    throw InvalidArgument(concat(file.string(), " is the database of another program; give --store a file of its own"));
  }
  if (version > 0 && version < Store::kSchemaVersion) {
    Statement backup(database, "VACUUM INTO ?");
    backup.text(1, concat(file.string(), ".before-schema-", Store::kSchemaVersion)).run();
  }
  for (int64_t next = version; next < Store::kSchemaVersion; ++next) {
    execute(database, "BEGIN IMMEDIATE");
    execute(database, kMigrations[next]);
    execute(database, concat("PRAGMA user_version = ", next + 1).c_str());
    execute(database, "COMMIT");
  }
}

sqlite3* open_database(const fs::path& file) {
  sqlite3* database = nullptr;
  if (sqlite3_open_v2(file.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                      nullptr) != SQLITE_OK) {
    const std::string reason = database == nullptr ? "out of memory" : sqlite3_errmsg(database);
    sqlite3_close(database);
    throw InvalidArgument(concat("cannot open the store ", file.string(), ": ", reason));
  }
  return database;
}

template <typename Message>
std::vector<Message> load_records(sqlite3* database, const char* sql) {
  std::vector<Message> all;
  Statement rows(database, sql);
  while (rows.step()) {
    if (!all.emplace_back().ParseFromString(rows.bytes_at(0)))
      throw Corruption(concat("the store holds a record that cannot be read (", sql, ")"));
  }
  return all;
}

}  // namespace

bool Changes::empty() const {
  return pipelines.empty() && jobs.empty() && gangs.empty() && removed_gangs.empty() && gang_faults.empty() &&
         removed_gang_faults.empty() && artifacts.empty() && events.empty() && requests.empty() && points.empty() &&
         removed_points.empty() && forget_requests_before == 0;
}

Store::Store(const fs::path& file) : file_(file), database_(nullptr, sqlite3_close) {
  if (file.has_parent_path()) make_last_directory(file.parent_path(), "--store");
  refuse_network_file_system(file);
  database_.reset(open_database(file));
  sqlite3* database = database_.get();
  try {
    execute(database, "PRAGMA locking_mode = EXCLUSIVE");
    execute(database, "PRAGMA journal_mode = WAL");
    execute(database, "PRAGMA synchronous = FULL");
    execute(database, "PRAGMA foreign_keys = ON");
    execute(database, "PRAGMA cache_size = -32768");        // KiB
    execute(database, "PRAGMA wal_autocheckpoint = 4096");  // pages: 16 MiB of log, then it goes into the database
    execute(database, "BEGIN EXCLUSIVE; COMMIT");
  } catch (const StorageError& error) {
    if ((sqlite3_errcode(database) & 0xFF) == SQLITE_BUSY) {
      throw InvalidArgument(concat("the store ", file.string(),
                                   " is in use by another moe-coordinator; stop that one or give another --store"));
    }
    throw InvalidArgument(concat("cannot use the store ", file.string(), ": ", error.what()));
  }
  migrate(database, file);
}

Store::~Store() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::string Store::root_id() const {
  Statement statement(database_.get(), "SELECT value FROM setting WHERE name = 'root_id'");
  return statement.step() ? statement.bytes_at(0) : "";
}

void Store::set_root_id(const std::string& id) {
  Statement statement(database_.get(), "INSERT OR REPLACE INTO setting VALUES ('root_id', ?)");
  statement.text(1, id).run();
}

std::vector<std::string> Store::begun_jobs() const {
  std::vector<std::string> jobs;
  Statement statement(database_.get(), "SELECT id FROM job WHERE attempt > 0 ORDER BY id");
  while (statement.step()) jobs.push_back(statement.bytes_at(0));
  return jobs;
}

StoredState Store::load() {
  sqlite3* database = database_.get();
  StoredState state;
  state.pipelines = load_records<v1::Pipeline>(database, "SELECT record FROM pipeline ORDER BY id");
  for (v1::Pipeline& pipeline : state.pipelines)
    for (v1::Stage& stage : *pipeline.mutable_spec()->mutable_stages()) move_fields(stage);
  state.jobs = load_records<v1::Job>(database, "SELECT record FROM job ORDER BY id");
  for (v1::Job& job : state.jobs) move_fields(*job.mutable_stage());
  state.gangs = load_records<v1::Gang>(database, "SELECT record FROM gang ORDER BY id");
  state.gang_faults = load_records<v1::GangFaults>(database, "SELECT record FROM gang_faults ORDER BY launcher_id");
  state.artifacts = load_records<v1::Artifact>(database, "SELECT record FROM artifact ORDER BY id");
  state.events = load_records<v1::Event>(
      database, concat("SELECT record FROM (SELECT revision, record FROM event ORDER BY revision DESC LIMIT ",
                       kEventsInMemory, ") ORDER BY revision")
                    .c_str());
  Statement requests(database, "SELECT id, method, body_digest, response, created FROM request");
  while (requests.step()) {
    state.requests.push_back({requests.bytes_at(0), requests.bytes_at(1), requests.bytes_at(2), requests.bytes_at(3),
                              requests.integer_at(4)});
  }
  Statement points(database, "SELECT job_id, record FROM metric_point ORDER BY job_id, step");
  while (points.step()) {
    StoredPoint& point = state.points.emplace_back();
    point.job_id = points.bytes_at(0);
    if (!point.point.ParseFromString(points.bytes_at(1)))
      throw Corruption("the store holds a metric point that cannot be read");
  }
  thread_ = std::thread([this] { run(); });
  return state;
}

void Store::commit(Changes changes) {
  if (changes.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(changes), nullptr});
  }
  wake_.notify_one();
}

void Store::after_commit(std::function<void()> done) {
  {
    const std::lock_guard lock(mutex_);
    if (!queue_.empty() || is_committing_) {
      queue_.push_back({Changes{}, std::move(done)});
      return;
    }
  }
  done();
}

void Store::run() {
  while (true) {
    std::deque<Pending> group;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return !queue_.empty() || is_closing_; });
      if (queue_.empty()) return;
      group.swap(queue_);
      is_committing_ = true;
    }
    const auto started = std::chrono::steady_clock::now();
    try {
      sqlite3* database = database_.get();
      execute(database, "BEGIN IMMEDIATE");
      for (const Pending& pending : group) write(pending.changes);
      execute(database, "COMMIT");
    } catch (const std::exception& error) {
      log_error(concat("event=store_failed path=", file_.string(), " reason=\"", error.what(),
                       "\"; nothing acknowledged is lost: make room or mend the disk, then start again"));
      ::_exit(static_cast<int>(ExitCode::kStorage));
    }
    {
      const std::lock_guard lock(mutex_);
      is_committing_ = false;
    }
    if (observer_) observer_(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    for (const Pending& pending : group) {
      if (pending.done) pending.done();
    }
    answer_waiting();
  }
}

void Store::answer_waiting() {
  std::vector<Pending> waiting;
  {
    const std::lock_guard lock(mutex_);
    while (!queue_.empty() && queue_.front().done) {
      waiting.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
  }
  for (const Pending& pending : waiting) pending.done();
}

Statement& Store::prepared(const char* sql) {
  std::unique_ptr<Statement>& statement = statements_[sql];
  if (!statement) statement = std::make_unique<Statement>(database_.get(), sql);
  return *statement;
}

void Store::write(const Changes& changes) {
  for (const v1::Pipeline& pipeline : changes.pipelines) {
    prepared(
        "INSERT INTO pipeline VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET phase = excluded.phase, record = "
        "excluded.record")
        .text(1, pipeline.id())
        .text(2, pipeline.phase())
        .blob(3, pipeline.SerializeAsString())
        .run();
  }
  for (const v1::Job& job : changes.jobs) {
    prepared(
        "INSERT INTO job VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempt = "
        "excluded.attempt, record = excluded.record")
        .text(1, job.id())
        .text(2, job.pipeline_id())
        .integer(3, job.state())
        .integer(4, job.attempt())
        .blob(5, job.SerializeAsString())
        .run();
  }
  for (const v1::Gang& gang : changes.gangs) {
    prepared("INSERT INTO gang VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record")
        .text(1, gang.id())
        .blob(2, gang.SerializeAsString())
        .run();
  }
  for (const std::string& id : changes.removed_gangs) prepared("DELETE FROM gang WHERE id = ?").text(1, id).run();
  for (const v1::GangFaults& faults : changes.gang_faults) {
    prepared("INSERT OR REPLACE INTO gang_faults VALUES (?, ?)")
        .text(1, faults.launcher_id())
        .blob(2, faults.SerializeAsString())
        .run();
  }
  for (const std::string& launcher : changes.removed_gang_faults)
    prepared("DELETE FROM gang_faults WHERE launcher_id = ?").text(1, launcher).run();
  for (const v1::Artifact& artifact : changes.artifacts) {
    prepared("INSERT INTO artifact VALUES (?, ?, ?, ?)")
        .text(1, artifact.id())
        .text(2, artifact.job_id())
        .text(3, artifact.digest())
        .blob(4, artifact.SerializeAsString())
        .run();
  }
  for (const v1::Event& event : changes.events) {
    prepared("INSERT INTO event VALUES (?, ?, ?, ?, ?)")
        .integer(1, event.revision())
        .text(2, event.pipeline_id())
        .text(3, event.job_id())
        .text(4, event.type())
        .blob(5, event.SerializeAsString())
        .run();
  }
  if (changes.forget_requests_before > 0)
    prepared("DELETE FROM request WHERE created < ?").integer(1, changes.forget_requests_before).run();
  for (const StoredRequest& request : changes.requests) {
    prepared("INSERT INTO request VALUES (?, ?, ?, ?, ?)")
        .text(1, request.request_id)
        .text(2, request.method)
        .text(3, request.body_digest)
        .blob(4, request.response)
        .integer(5, request.created)
        .run();
  }
  for (const StoredPoint& point : changes.points) {
    prepared("INSERT OR REPLACE INTO metric_point VALUES (?, ?, ?)")
        .text(1, point.job_id)
        .integer(2, point.point.step())
        .blob(3, point.point.SerializeAsString())
        .run();
  }
  for (const auto& [job, step] : changes.removed_points) {
    prepared("DELETE FROM metric_point WHERE job_id = ? AND step = ?").text(1, job).integer(2, step).run();
  }
}

}  // namespace moe
