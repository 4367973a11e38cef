#include <gtest/gtest.h>

#include <iostream>
#include <map>

#include "common/rng.h"
#include "coordinator/job_machine.h"

// The state machine of a job against a model that knows three facts about it and no table: whether a gang has it,
// whether it has ended, and what a user wants of it.
namespace moe {
namespace {

struct NaiveJob {
  bool is_blocked = true;  // inputs missing
  bool is_paused = false;
  int gang = 0;      // 0 none, 1 has it, 2 works on it, 3 was asked to leave it
  std::string wish;  // what a stopping job becomes
  std::string end;

  std::string name() const {
    if (!end.empty()) return end;
    if (gang == 3) return "STOPPING " + wish;
    if (gang > 0) return gang == 1 ? "ASSIGNED" : "RUNNING";
    if (is_paused) return "PAUSED";
    return is_blocked ? "BLOCKED" : "QUEUED";
  }

  void lose_gang(const std::string& otherwise) {
    const std::string becomes = gang == 3 ? wish : otherwise;
    gang = 0;
    is_blocked = false;
    is_paused = becomes == "PAUSED";
    if (becomes == "CANCELED" || becomes == "FAILED") end = becomes;
  }

  bool ask_to_leave(const std::string& what) {
    if (gang == 0 || (gang == 3 && what != "CANCELED")) return false;
    gang = 3;
    wish = what;
    return true;
  }

  bool take(JobEvent event, bool budget, bool inputs) {
    if (!end.empty()) {
      if (end != "FAILED" || event != JobEvent::kRetry) return false;
      *this = NaiveJob{.is_blocked = false, .wish = {}, .end = {}};
      return true;
    }
    const bool waits = gang == 0 && !is_paused;
    switch (event) {
      case JobEvent::kReady:
        if (!waits || !is_blocked) return false;
        is_blocked = false;
        return true;
      case JobEvent::kUpstreamFailed: return waits && is_blocked;
      case JobEvent::kLeaseGranted:
        if (!waits || is_blocked) return false;
        gang = 1;
        return true;
      case JobEvent::kWorkHeartbeat:
        if (gang == 0 && (!waits || is_blocked)) return false;
        if (gang < 3) gang = 2;
        return true;
      case JobEvent::kLeaseExpired:
      case JobEvent::kAttemptRetryable:
      case JobEvent::kAttemptPermanent:
      case JobEvent::kAttemptReleased: {
        if (gang == 0) return false;
        const bool fails = event == JobEvent::kAttemptPermanent || (event != JobEvent::kAttemptReleased && !budget);
        lose_gang(fails ? "FAILED" : "QUEUED");
        return true;
      }
      case JobEvent::kAttemptSucceeded:
        if (gang == 0) return false;
        end = "SUCCEEDED";
        return true;
      case JobEvent::kPause:
        if (gang > 0) return ask_to_leave("PAUSED");
        if (is_paused) return false;
        is_paused = true;
        return true;
      case JobEvent::kCancel:
        if (gang > 0) return ask_to_leave("CANCELED");
        end = "CANCELED";
        return true;
      case JobEvent::kPreempt: return ask_to_leave("QUEUED");
      case JobEvent::kDeadline:
        if (!waits) return false;
        end = "FAILED";
        return true;
      case JobEvent::kResume:
        if (!is_paused) return false;
        is_paused = false;
        is_blocked = !inputs;
        return true;
      case JobEvent::kRetry: return false;
    }
    return false;
  }
};

std::string name_of(const JobPosition& position) {
  if (position.state != v1::JOB_STATE_STOPPING)
    return position.intent == 0 ? state_name(position.state) : "an intent outside STOPPING";
  const std::map<int, std::string> intents{{1, "PAUSED"}, {2, "CANCELED"}, {3, "QUEUED"}};
  return "STOPPING " + intents.at(position.intent);
}

TEST(JobMachineWalkTest, AgreesWithTheModelOver100000Events) {
  constexpr uint64_t kSeed = 20261124;
  constexpr int kEvents = 100'000;
  CounterRng rng(kSeed, kStreamTest);
  int walks = 0, refused = 0, differences = 0;
  std::map<std::string, int> visits;
  JobPosition position;
  NaiveJob model;
  for (int n = 0; n < kEvents; ++n) {
    const auto event = static_cast<JobEvent>(rng.below(kJobEvents));
    const bool budget = rng.below(3) > 0, inputs = rng.below(2) == 0;
    const auto next = next_position(position, event, {.budget_left = budget, .inputs_ready = inputs});
    const bool is_allowed = model.take(event, budget, inputs);
    if (next) position = *next;
    if (next.has_value() != is_allowed || name_of(position) != model.name()) {
      if (++differences < 5)
        ADD_FAILURE() << event_name(event) << ": " << name_of(position) << ", model " << model.name();
    }
    refused += !next;
    ++visits[name_of(position)];
    if (is_terminal(position.state) && rng.below(8) == 0) {
      position = {};
      model = {};
      ++walks;
    }
  }
  std::cout << "seed " << kSeed << ": " << kEvents << " events, " << walks << " walks, " << refused << " refused, "
            << differences << " differences;";
  for (const auto& [name, count] : visits) std::cout << " " << name << " " << count;
  std::cout << "\n";
  EXPECT_EQ(differences, 0);
  EXPECT_EQ(visits.size(), 11u);
}

}  // namespace
}  // namespace moe
