#include "coordinator/job_machine.h"

#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <set>
#include <vector>

// Every position and event against the table of docs/operating.md, written out here a second time.
namespace moe {
namespace {

struct Row {
  const char* from;
  const char* event;
  const char* to;
  const char* when = "";  // "budget", "spent", "inputs", "no inputs"; empty: always
};

// What is not listed is not allowed.
const Row kTable[] = {
    {"BLOCKED", "ready", "QUEUED"},
    {"BLOCKED", "upstream failed", "BLOCKED"},
    {"BLOCKED", "pause", "PAUSED"},
    {"BLOCKED", "cancel", "CANCELED"},
    {"BLOCKED", "deadline", "FAILED"},
    {"QUEUED", "lease granted", "ASSIGNED"},
    {"QUEUED", "heartbeat", "RUNNING"},
    {"QUEUED", "pause", "PAUSED"},
    {"QUEUED", "cancel", "CANCELED"},
    {"QUEUED", "deadline", "FAILED"},
    {"ASSIGNED", "heartbeat", "RUNNING"},
    {"ASSIGNED", "lease expired", "QUEUED", "budget"},
    {"ASSIGNED", "lease expired", "FAILED", "spent"},
    {"ASSIGNED", "retryable", "QUEUED", "budget"},
    {"ASSIGNED", "retryable", "FAILED", "spent"},
    {"ASSIGNED", "permanent", "FAILED"},
    {"ASSIGNED", "succeeded", "SUCCEEDED"},
    {"ASSIGNED", "released", "QUEUED"},
    {"ASSIGNED", "pause", "STOPPING to PAUSED"},
    {"ASSIGNED", "cancel", "STOPPING to CANCELED"},
    {"ASSIGNED", "preempt", "STOPPING to QUEUED"},
    {"RUNNING", "heartbeat", "RUNNING"},
    {"RUNNING", "lease expired", "QUEUED", "budget"},
    {"RUNNING", "lease expired", "FAILED", "spent"},
    {"RUNNING", "retryable", "QUEUED", "budget"},
    {"RUNNING", "retryable", "FAILED", "spent"},
    {"RUNNING", "permanent", "FAILED"},
    {"RUNNING", "succeeded", "SUCCEEDED"},
    {"RUNNING", "released", "QUEUED"},
    {"RUNNING", "pause", "STOPPING to PAUSED"},
    {"RUNNING", "cancel", "STOPPING to CANCELED"},
    {"RUNNING", "preempt", "STOPPING to QUEUED"},
    {"STOPPING to PAUSED", "heartbeat", "STOPPING to PAUSED"},
    {"STOPPING to PAUSED", "cancel", "STOPPING to CANCELED"},
    {"STOPPING to PAUSED", "lease expired", "PAUSED"},
    {"STOPPING to PAUSED", "retryable", "PAUSED"},
    {"STOPPING to PAUSED", "permanent", "PAUSED"},
    {"STOPPING to PAUSED", "released", "PAUSED"},
    {"STOPPING to PAUSED", "succeeded", "SUCCEEDED"},
    {"STOPPING to CANCELED", "heartbeat", "STOPPING to CANCELED"},
    {"STOPPING to CANCELED", "cancel", "STOPPING to CANCELED"},
    {"STOPPING to CANCELED", "lease expired", "CANCELED"},
    {"STOPPING to CANCELED", "retryable", "CANCELED"},
    {"STOPPING to CANCELED", "permanent", "CANCELED"},
    {"STOPPING to CANCELED", "released", "CANCELED"},
    {"STOPPING to CANCELED", "succeeded", "SUCCEEDED"},
    {"STOPPING to QUEUED", "heartbeat", "STOPPING to QUEUED"},
    {"STOPPING to QUEUED", "cancel", "STOPPING to CANCELED"},
    {"STOPPING to QUEUED", "lease expired", "QUEUED"},
    {"STOPPING to QUEUED", "retryable", "QUEUED"},
    {"STOPPING to QUEUED", "permanent", "QUEUED"},
    {"STOPPING to QUEUED", "released", "QUEUED"},
    {"STOPPING to QUEUED", "succeeded", "SUCCEEDED"},
    {"PAUSED", "resume", "QUEUED", "inputs"},
    {"PAUSED", "resume", "BLOCKED", "no inputs"},
    {"PAUSED", "cancel", "CANCELED"},
    {"FAILED", "retry", "QUEUED"},
};

const std::map<std::string, JobPosition> kPositions = {
    {"BLOCKED", {v1::JOB_STATE_BLOCKED, {}}},
    {"QUEUED", {v1::JOB_STATE_QUEUED, {}}},
    {"ASSIGNED", {v1::JOB_STATE_ASSIGNED, {}}},
    {"RUNNING", {v1::JOB_STATE_RUNNING, {}}},
    {"STOPPING to PAUSED", {v1::JOB_STATE_STOPPING, v1::STOP_INTENT_PAUSE}},
    {"STOPPING to CANCELED", {v1::JOB_STATE_STOPPING, v1::STOP_INTENT_CANCEL}},
    {"STOPPING to QUEUED", {v1::JOB_STATE_STOPPING, v1::STOP_INTENT_REQUEUE}},
    {"PAUSED", {v1::JOB_STATE_PAUSED, {}}},
    {"SUCCEEDED", {v1::JOB_STATE_SUCCEEDED, {}}},
    {"FAILED", {v1::JOB_STATE_FAILED, {}}},
    {"CANCELED", {v1::JOB_STATE_CANCELED, {}}},
};

const std::map<std::string, JobEvent> kEvents = {
    {"ready", JobEvent::kReady},
    {"upstream failed", JobEvent::kUpstreamFailed},
    {"lease granted", JobEvent::kLeaseGranted},
    {"heartbeat", JobEvent::kWorkHeartbeat},
    {"lease expired", JobEvent::kLeaseExpired},
    {"succeeded", JobEvent::kAttemptSucceeded},
    {"retryable", JobEvent::kAttemptRetryable},
    {"permanent", JobEvent::kAttemptPermanent},
    {"released", JobEvent::kAttemptReleased},
    {"pause", JobEvent::kPause},
    {"cancel", JobEvent::kCancel},
    {"preempt", JobEvent::kPreempt},
    {"deadline", JobEvent::kDeadline},
    {"resume", JobEvent::kResume},
    {"retry", JobEvent::kRetry},
};

std::string name_of(const std::optional<JobPosition>& position) {
  if (!position) return "refused";
  for (const auto& [name, known] : kPositions) {
    if (known == *position) return name;
  }
  return "no such position";
}

std::string expected(const std::string& from, const std::string& event, const JobCircumstances& circumstances) {
  for (const Row& row : kTable) {
    if (from != row.from || event != row.event) continue;
    const std::string when = row.when;
    if ((when == "budget" && !circumstances.budget_left) || (when == "spent" && circumstances.budget_left)) continue;
    if ((when == "inputs" && !circumstances.inputs_ready) || (when == "no inputs" && circumstances.inputs_ready))
      continue;
    return row.to;
  }
  return "refused";
}

TEST(JobMachineTest, EveryPositionAndEventAsInTheTable) {
  ASSERT_EQ(kEvents.size(), static_cast<size_t>(kJobEvents));
  std::set<int> states;
  int pairs = 0, allowed = 0;
  for (const auto& [from, position] : kPositions) {
    states.insert(position.state);
    for (const auto& [event, value] : kEvents) {
      for (const bool budget : {true, false}) {
        for (const bool inputs : {true, false}) {
          const JobCircumstances circumstances{.budget_left = budget, .inputs_ready = inputs};
          const std::string actual = name_of(next_position(position, value, circumstances));
          EXPECT_EQ(actual, expected(from, event, circumstances))
              << from << ", " << event << ", budget " << budget << ", inputs " << inputs;
          ++pairs;
          allowed += actual != "refused";
        }
      }
    }
  }
  std::cout << pairs << " cases of " << states.size() << " states, " << kEvents.size() << " events; " << allowed
            << " allowed\n";
  EXPECT_EQ(states.size(), 9u);
  EXPECT_EQ(v1::JobState_descriptor()->value_count(), 10);  // the nine and UNSPECIFIED
}

TEST(JobMachineTest, FromEverywhereATerminalStateIsReachable) {
  for (const auto& [from, start] : kPositions) {
    std::vector<JobPosition> reached{start};
    bool ends = false;
    for (size_t i = 0; i < reached.size() && !ends; ++i) {
      ends = is_terminal(reached[i].state);
      for (const auto& [event, value] : kEvents) {
        const auto next = next_position(reached[i], value, {});
        if (next && std::find(reached.begin(), reached.end(), *next) == reached.end()) reached.push_back(*next);
      }
    }
    EXPECT_TRUE(ends) << from;
  }
}

TEST(JobMachineTest, NamesAndKinds) {
  EXPECT_EQ(state_name(v1::JOB_STATE_QUEUED), "QUEUED");
  std::set<std::string> names;
  for (const auto& [name, event] : kEvents) names.insert(event_name(event));
  EXPECT_EQ(names.size(), kEvents.size());
  EXPECT_FALSE(names.contains(""));
  for (const auto& [name, position] : kPositions) {
    EXPECT_EQ(is_terminal(position.state), name == "SUCCEEDED" || name == "FAILED" || name == "CANCELED") << name;
    EXPECT_EQ(is_leased(position.state), name == "ASSIGNED" || name == "RUNNING" || name.starts_with("STOPPING"))
        << name;
  }
}

}  // namespace
}  // namespace moe
