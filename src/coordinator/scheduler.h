#pragma once

#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "moe/v1/state.pb.h"

/// Which job a gang gets, and why a job gets none: pure functions. Order: submission time, then id; a static key, so
/// that nothing starves and every decision explains itself. A gang in quarantine gets none. A gang that failed a job
/// for a reason of its own does not get it again for a time, while another could run it.
namespace moe {

/// What a job needs of a gang.
struct GangNeed {
  int ranks = 0;            ///< 0: any number
  int expert_parallel = 0;  ///< must divide the ranks; 0: any
  std::string device;       ///< "cpu", "cuda"
};

struct GangShape {
  std::string id;
  int ranks = 0;
  std::string device;
  bool is_idle = false;
  std::string launcher{};  ///< its launcher's id, else its own
  bool is_quarantined = false;
};

struct QueuedJob {
  int64_t created = 0;  ///< microseconds since the epoch
  std::string id;
  GangNeed need;
  int64_t not_before = 0;                ///< microseconds since the epoch
  std::vector<std::string> failed_on{};  ///< launchers
  int64_t avoid_until = 0;               ///< microseconds since the epoch: until then they come last
  bool operator<(const QueuedJob& other) const { return std::tie(created, id) < std::tie(other.created, other.id); }
};

GangNeed need_of(const v1::GangSpec& gang);

/// Whether a gang of this shape can run the job.
bool fits(const GangNeed& need, const GangShape& gang);

/// Whether a gang other than those of `launcher` could run the job: of its shape, not in quarantine, none that failed
/// it.
bool another_could_run(const GangNeed& need, const std::vector<std::string>& failed_on, const std::string& launcher,
                       const std::vector<GangShape>& gangs);

/// The job that this gang shall get; nullptr if none may run on it now. `gangs`: all that are there.
const QueuedJob* pick(const std::set<QueuedJob>& queue, const GangShape& gang, const std::vector<GangShape>& gangs,
                      int64_t now);

/// One sentence: why the job still waits, with numbers and what to do.
std::string explain(const std::set<QueuedJob>& queue, const QueuedJob& job, const std::vector<GangShape>& gangs,
                    int64_t now);

/// "a gang of 4 cpu ranks".
std::string describe(const GangNeed& need);

}  // namespace moe
