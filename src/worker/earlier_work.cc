#include "worker/earlier_work.h"

#include <algorithm>
#include <set>
#include <utility>

#include "checkpoint/checkpointer.h"
#include "common/error.h"
#include "common/log.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr char kNotRecorded[] =
    "what it was made with is not recorded, or was recorded by another version of this program";

/// What a checkpoint was made with. Its manifest says so; of a damaged one, or of an earlier version's, the attempt
/// that wrote it.
std::optional<Configuration> made_with(const JobFolder& folder, const StoredCheckpoint& checkpoint) {
  if (std::optional<Configuration> recorded = configuration_from(checkpoint.scalars)) return recorded;
  return configuration_from(folder.begun(checkpoint.attempt));
}

struct Judged {
  const StoredCheckpoint* checkpoint = nullptr;
  std::optional<Configuration> made_with;
  std::vector<FieldChange> changes;

  bool is_ours() const { return made_with && may_go_on(changes); }
  std::string what_changed(const std::string& separator) const {
    return made_with ? to_text(changes, separator) : kNotRecorded;
  }
};

/// Nobody should have to guess why training went on at an older step.
void tell_skipped(const JobFolder& folder, const Judged& judged) {
  const bool is_readable = !judged.checkpoint->scalars.is_null();
  log_warning(concat(
      "event=checkpoint_skipped path=", (folder.checkpoints_path() / judged.checkpoint->name).string(), " reason=\"",
      is_readable ? "" : "its MANIFEST.json cannot be read, and the attempt that wrote it had another configuration: ",
      judged.what_changed("; "), "\"; it stays where it is"));
}

Judged judge(const JobFolder& folder, const StoredCheckpoint& checkpoint, const Configuration& now) {
  Judged judged{&checkpoint, made_with(folder, checkpoint), {}};
  if (judged.made_with) judged.changes = changes(*judged.made_with, now);
  return judged;
}

/// A result that training could have reached from what this was made with has been there since: nothing is lost by
/// leaving the checkpoint alone. An older result is not what the checkpoint was on its way to: --fresh began it anew.
bool is_finished(const Judged& judged, const std::vector<json>& records) {
  return judged.made_with && std::any_of(records.begin(), records.end(), [&](const json& record) {
           const std::optional<Configuration> done = configuration_from(record);
           return done && record["attempt"].get<int>() >= judged.checkpoint->attempt &&
                  may_go_on(changes(*judged.made_with, *done));
         });
}

/// Somebody decided already, with --fresh, to begin with this configuration beside that of an older attempt.
bool was_begun_after(const JobFolder& folder, int other, const Configuration& now) {
  const std::vector<int> attempts = folder.attempts();
  return std::any_of(attempts.begin(), attempts.end(), [&](int attempt) {
    if (attempt <= other) return false;
    const json begun = folder.begun(attempt);
    const std::optional<Configuration> before = configuration_from(begun);
    return before && begun.contains("inputs") && may_go_on(changes(*before, now));
  });
}

/// The attempts from which on work counts for this configuration: where --fresh began it anew, else 0.
struct Floor {
  int results = 0;      ///< asked for with another number of steps, --fresh says nothing of what these steps gave
  int checkpoints = 0;  ///< with more steps, what it began goes on
};

Floor floor_of(const JobFolder& folder, const Configuration& now) {
  Floor floor;
  for (const json& entry : folder.fresh()) {
    const std::optional<Configuration> begun = configuration_from(entry);
    if (!begun) continue;
    const std::vector<FieldChange> differences = changes(*begun, now);
    const int attempt = entry["attempt"].get<int>();
    if (is_same_result(differences)) floor.results = std::max(floor.results, attempt);
    if (may_go_on(differences)) floor.checkpoints = std::max(floor.checkpoints, attempt);
  }
  return floor;
}

std::string output_of(const json& record) {
  return JobFolder::output_name(record["attempt"].get<int>());
}

}  // namespace

bool begin_afresh(const JobFolder& folder, const Configuration& now, const std::string& launcher) {
  std::vector<json> entries = folder.fresh();
  // One for each configuration, with all launchers that asked: the file does not grow with the runs. A configuration
  // that measures something else has its own, since the results of the other one count on their own.
  std::set<std::string> launchers;
  std::erase_if(entries, [&](const json& entry) {
    const std::optional<Configuration> begun = configuration_from(entry);
    if (!begun || !is_same_result(changes(*begun, now))) return false;
    launchers.merge(entry.value("launchers", std::set<std::string>()));
    return true;
  });
  if (launchers.contains(launcher)) return false;
  if (!launcher.empty()) launchers.insert(launcher);
  json entry = to_json(now);
  entry.update({{"attempt", folder.next_attempt()}, {"launchers", launchers}});
  entries.push_back(std::move(entry));
  folder.record_fresh(entries);
  return true;
}

EarlierWork earlier_work(const JobFolder& folder, const Configuration& now) {
  const std::vector<StoredCheckpoint> checkpoints = stored_checkpoints(folder.checkpoints_path());
  const Floor floor = floor_of(folder, now);
  EarlierWork work;
  work.first_attempt = floor.checkpoints;
  const std::vector<json> records = folder.records();
  std::string unlike_result;  // how the newest result differs
  for (const json& record : records) {
    const std::optional<Configuration> done = configuration_from(record);
    const std::vector<FieldChange> differences = done ? changes(*done, now) : std::vector<FieldChange>();
    if (done && record.contains("inputs") && is_same_result(differences)) {
      if (record["attempt"].get<int>() < floor.results) continue;
      work.record = record;
      return work;
    }
    if (unlike_result.empty()) {
      unlike_result = concat(output_of(record), " stays and does not count: ",
                             done && record.contains("inputs") ? to_text(differences) : kNotRecorded);
    }
  }

  std::optional<Judged> newest, other;
  for (const StoredCheckpoint& checkpoint : checkpoints) {
    if (checkpoint.attempt < floor.checkpoints) continue;  // to begin beside them was decided with --fresh
    Judged judged = judge(folder, checkpoint, now);
    const bool is_readable = !checkpoint.scalars.is_null();
    if (judged.is_ours() || (!is_readable && !judged.made_with)) {
      work.resumable.push_back(checkpoint.name);  // a damaged one is named in a warning when it is tried
      if (is_readable && !newest) newest = std::move(judged);
      continue;
    }
    tell_skipped(folder, judged);
    if (!other && !is_finished(judged, records)) {
      other = std::move(judged);
    }
  }
  if (newest) {
    work.note = concat("goes on at step ", newest->checkpoint->step, " (", newest->checkpoint->name, ")");
    if (const std::string text = newest->what_changed("; "); !text.empty()) work.note += "; " + text;
    return work;
  }
  if (other && work.resumable.empty()) {
    const std::string where = (folder.checkpoints_path() / other->checkpoint->name).string();
    if (!was_begun_after(folder, other->checkpoint->attempt, now)) {
      throw InvalidArgument(concat(
          "stage ", now.stage.name(), ": a training of another configuration was begun in ", folder.path().string(),
          " and is not finished:\n  ", other->what_changed("\n  "), "\nIts newest checkpoint, of step ",
          other->checkpoint->step, ", is ", where,
          "; nothing was changed or deleted. To go on with it, put back what changed; to begin anew beside it, add "
          "--fresh, which deletes nothing, or use another --out"));
    }
    work.note =
        concat("begins at step 1; checkpoints of another configuration stay in ", folder.checkpoints_path().string());
    return work;
  }
  if (floor.checkpoints > 1) {
    work.note = concat("begins anew, as asked with --fresh; what was there before stays in ", folder.path().string());
  } else {
    work.note = unlike_result;
  }
  return work;
}

std::vector<std::string> resumable_of(const JobFolder& folder, const std::vector<std::string>& committed,
                                      const Configuration& now) {
  std::vector<std::string> resumable;
  std::string reason;
  for (const std::string& name : committed) {
    const StoredCheckpoint checkpoint = stored_checkpoint(folder.checkpoints_path(), name);
    const Judged judged = judge(folder, checkpoint, now);
    if (judged.is_ours() ||
        !judged.made_with) {  // the coordinator knows it: whether it can be read is found when it is tried
      resumable.push_back(name);
    } else {
      tell_skipped(folder, judged);
      if (reason.empty()) reason = judged.what_changed("\n  ");
    }
  }
  if (resumable.empty() && !reason.empty()) {
    throw InvalidArgument(
        concat("what stage ", now.stage.name(), " reads changed since its checkpoints in ",
               folder.checkpoints_path().string(), " were made:\n  ", reason,
               "\nNothing was deleted. Restore it and `moectl retry` the job, or submit the pipeline anew"));
  }
  return resumable;
}

bool may_go_on_from(const json& scalars, const Configuration& now, int first_attempt) {
  const std::optional<Configuration> before = configuration_from(scalars);
  return before && scalars.value("attempt", 0) >= first_attempt && may_go_on(changes(*before, now));
}

}  // namespace moe
