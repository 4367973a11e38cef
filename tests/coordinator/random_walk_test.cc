#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "common/error.h"
#include "common/rng.h"
#include "coordinator/coordinator_fixture.h"
#include "coordinator/operation.h"

// The whole interface of the coordinator at random, with gangs that are late, die, lie dead and repeat themselves, and
// restarts. After every operation the rules are checked that must never break.
namespace moe {
namespace {

using namespace std::chrono_literals;
using testing::CoordinatorFixture;

constexpr v1::AttemptOutcome kOutcomes[] = {v1::ATTEMPT_OUTCOME_SUCCEEDED, v1::ATTEMPT_OUTCOME_SUCCEEDED,
                                            v1::ATTEMPT_OUTCOME_SUCCEEDED, v1::ATTEMPT_OUTCOME_RETRYABLE,
                                            v1::ATTEMPT_OUTCOME_PERMANENT, v1::ATTEMPT_OUTCOME_RELEASED};

class Walk {
 public:
  explicit Walk(uint64_t seed) : rng_(seed, kStreamTest) {
    for (int i = 0; i < 3; ++i) new_gang(i);
  }

  void step() {
    const auto kind = rng_.below(100);
    if (kind < 6) {
      submit();
    } else if (kind < 30) {
      acquire();
    } else if (kind < 72) {
      write();
    } else if (kind < 84) {
      control();
    } else if (kind < 96) {
      pass();
    } else if (kind < 98) {
      new_gang(static_cast<int>(rng_.below(3)));
    } else if (kind < 99) {
      EXPECT_TRUE(fixture_.deregister_gang(gangs_[rng_.below(3)]).ok());
    } else {
      const auto before = fixture_.snapshot();
      fixture_.restart();
      EXPECT_EQ(before, fixture_.snapshot());
      ++counts["restart"];
    }
    check();
  }

  void finish() {
    EXPECT_EQ(fixture_.snapshot(), fixture_.snapshot_of_fresh_load());
    std::map<std::string, int> ends;
    v1::WatchRequest watch;
    for (int64_t before = -1; before != watch.after_revision();) {
      before = watch.after_revision();
      const v1::WatchResponse page = fixture_.coordinator().watch(watch).value();
      for (const v1::Event& event : page.events())
        ends[event.job_id()] += !event.job_id().empty() && event.type() == "SUCCEEDED";
      watch.set_after_revision(page.revision());
    }
    for (const auto& [job, times] : ends) EXPECT_LE(times, 1) << job;
    for (const v1::Pipeline& pipeline : fixture_.coordinator().view(1000).pipelines)
      ++counts["pipeline " + pipeline.phase()];
  }

  std::map<std::string, int> counts;

 private:
  void new_gang(int index) {
    gangs_[index] = concat("g", ++made_gangs_);
    fixture_.register_gang(gangs_[index], 1, rng_.below(2) == 0 ? concat("launcher", index) : "", 137);
  }

  void submit() {
    if (pipelines_.size() >= 12) return;
    fixture_.clock().advance(
        1us);  // ids hold random letters: never two of one instant, so that a walk is the same each time
    const auto kind = rng_.below(3);
    const v1::SubmitRequest request = fixture_.submit_request(kind == 0   ? testing::one_stage()
                                                              : kind == 1 ? testing::chain()
                                                                          : testing::fork());
    const auto response = fixture_.coordinator().submit(request);
    ASSERT_TRUE(response.ok());
    pipelines_.push_back(response->pipeline_id());
    targets_.push_back(response->pipeline_id());
    targets_.insert(targets_.end(), response->job_ids().begin(), response->job_ids().end());
    if (rng_.below(4) == 0) {
      EXPECT_EQ(fixture_.coordinator().submit(request)->pipeline_id(), response->pipeline_id());
    }
  }

  void acquire() {
    const std::string gang = gangs_[rng_.below(3)];
    const std::optional<v1::Lease> lease = fixture_.acquire(gang);
    if (!lease) return;
    int& newest = attempts_[lease->job_id()];
    const bool is_repeated = holders_[lease->job_id()] == gang && lease->attempt() == newest;
    EXPECT_TRUE(lease->attempt() == newest + 1 || is_repeated)
        << lease->job_id() << " attempt " << lease->attempt() << " after " << newest;
    newest = lease->attempt();
    holders_[lease->job_id()] = gang;
    if (!is_repeated) leases_.emplace_back(gang, *lease);
    ++counts[is_repeated ? "lease again" : "lease"];
  }

  // One write of a gang, of its newest lease or of one that may be long over.
  void write() {
    if (leases_.empty()) return;
    const size_t back = rng_.below(3) > 0 ? rng_.below(3) : rng_.below(leases_.size());
    const auto [gang, lease] = leases_[leases_.size() - 1 - std::min<size_t>(back, leases_.size() - 1)];
    const v1::Job before = fixture_.job(lease.job_id());
    const bool is_holder = before.attempt() == lease.attempt() && before.gang_id() == gang;
    const bool is_live = is_holder && is_leased(before.state());
    const bool may_take_up = is_holder && before.state() == v1::JOB_STATE_QUEUED && before.reason() == "LEASE_EXPIRED";
    absl::Status status;
    const auto kind = rng_.below(8);
    const v1::AttemptOutcome outcome = kOutcomes[rng_.below(std::size(kOutcomes))];
    bool was_said_before = false;
    if (kind < 3) {
      status = fixture_
                   .heartbeat(gang, lease, rng_.below(4) == 0 ? "preparing" : "training",
                              static_cast<int64_t>(rng_.below(100)))
                   .status();
    } else if (kind < 4) {
      status = fixture_.report(gang, lease, {static_cast<int64_t>(rng_.below(100)), 7});
    } else if (kind < 6) {
      status = fixture_.commit(gang, lease, static_cast<int64_t>(rng_.below(100)));
    } else {
      for (const v1::Attempt& attempt : before.attempts()) {
        was_said_before = was_said_before || (attempt.number() == lease.attempt() && attempt.gang_id() == gang &&
                                              attempt.outcome() == outcome);
      }
      status = fixture_.complete(gang, lease, outcome, {{"loss_ratio_to_baseline", static_cast<double>(rng_.below(6))}},
                                 "", outcome == v1::ATTEMPT_OUTCOME_RETRYABLE && rng_.below(2) == 0 ? 71 : 0);
    }
    if (is_live) {
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kNotFound)
          << status;  // a deregistered gang's heartbeat
    } else if (status.ok()) {
      EXPECT_TRUE(may_take_up || was_said_before) << gang << " attempt " << lease.attempt() << " wrote to\n"
                                                  << before.DebugString();
    } else {
      EXPECT_TRUE(status.code() == absl::StatusCode::kAborted || status.code() == absl::StatusCode::kNotFound)
          << status;
    }
    ++counts[status.ok() ? (is_live ? "write" : was_said_before ? "write again" : "write late") : "write refused"];
  }

  void control() {
    if (targets_.empty()) return;
    const std::string id = targets_[rng_.below(targets_.size())];
    const v1::ControlRequest request = fixture_.control(id);
    Coordinator& coordinator = fixture_.coordinator();
    absl::Status status;
    switch (rng_.below(9)) {
      case 0: {
        const auto what = rng_.below(4);
        if (what == 0) status = coordinator.cancel(request).status();
        if (what == 1)
          status = coordinator.cancel(fixture_.control(pipelines_[rng_.below(pipelines_.size())])).status();
        break;
      }
      case 1:
      case 2: status = coordinator.pause(request).status(); break;
      case 3:
      case 4: status = coordinator.resume(request).status(); break;
      case 5:
      case 6: status = coordinator.retry(request).status(); break;
      default: status = fixture_.decide(pipelines_[rng_.below(pipelines_.size())], rng_.below(4) > 0).status(); break;
    }
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kFailedPrecondition) << status;
    ++counts[status.ok() ? "control" : "control refused"];
  }

  void pass() {
    if (rng_.below(10) == 0) {  // a stall
      fixture_.clock().advance(60s);
      fixture_.coordinator().tick();
    } else {
      fixture_.pass(std::chrono::seconds(1 + rng_.below(20)));
    }
  }

  void check() {
    const Coordinator::View view = fixture_.coordinator().view(1000);
    std::map<std::string, int> leased_by_gang;
    std::map<std::string, v1::JobState> states;
    int leased = 0, queued = 0;
    for (const v1::Job& job : view.jobs) {
      states[job.id()] = job.state();
      EXPECT_GE(job.attempt(), attempts_[job.id()]) << job.id();
      if (is_leased(job.state())) {
        ++leased;
        EXPECT_EQ(++leased_by_gang[job.gang_id()], 1) << job.gang_id();
        EXPECT_EQ(job.attempt(), attempts_[job.id()]) << job.id();
        EXPECT_EQ(job.gang_id(), holders_[job.id()]) << job.id();
      }
      queued += job.state() == v1::JOB_STATE_QUEUED;
      EXPECT_EQ(job.state() == v1::JOB_STATE_SUCCEEDED, !job.output_path().empty()) << job.id();
      EXPECT_EQ(job.intent() != 0, job.state() == v1::JOB_STATE_STOPPING) << job.id();
      int ended = 0;
      for (const v1::Attempt& attempt : job.attempts()) ended += attempt.has_ended();
      EXPECT_EQ(job.attempts_size() - ended, is_leased(job.state()) ? 1 : 0) << job.id();
      const v1::JobState last = last_.contains(job.id()) ? last_[job.id()] : v1::JOB_STATE_BLOCKED;
      if (last == v1::JOB_STATE_SUCCEEDED || last == v1::JOB_STATE_CANCELED) {
        EXPECT_EQ(job.state(), last) << job.id();
      }
      last_[job.id()] = job.state();
    }
    const v1::ServerInfo info = fixture_.coordinator().server_info();
    EXPECT_EQ(info.running_jobs(), leased);
    EXPECT_EQ(info.queued_jobs(), queued);
    for (const v1::Pipeline& pipeline : view.pipelines) check(pipeline, states);
    for (const v1::Gang& gang : view.gangs) counts["quarantined"] += gang.state() == "quarantined";
  }

  static void check(const v1::Pipeline& pipeline, const std::map<std::string, v1::JobState>& states) {
    bool all_done = true, may_move = false;
    for (const v1::StageState& stage : pipeline.stages()) {
      if (stage.is_gate()) continue;
      const v1::JobState state = states.at(stage.job_id());
      all_done = all_done && state == v1::JOB_STATE_SUCCEEDED;
      may_move = may_move || is_leased(state) || state == v1::JOB_STATE_QUEUED || state == v1::JOB_STATE_PAUSED;
      EXPECT_EQ(stage.status() == "SUCCEEDED", state == v1::JOB_STATE_SUCCEEDED) << pipeline.DebugString();
      if (pipeline.phase() != "CANCELED") {
        EXPECT_EQ(stage.status() == "FAILED", state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELED)
            << pipeline.DebugString();
      }
    }
    if (pipeline.phase() == "SUCCEEDED") {
      EXPECT_TRUE(all_done) << pipeline.DebugString();
    }
    if (all_done) {  // a paused pipeline ends when it is resumed
      EXPECT_TRUE(pipeline.phase() == "SUCCEEDED" || pipeline.phase() == "PAUSED" || pipeline.phase() == "CANCELED")
          << pipeline.DebugString();
    }
    if (pipeline.phase() == "RUNNING") {
      EXPECT_TRUE(may_move) << "nothing can happen any more:\n" << pipeline.DebugString();
    }
    EXPECT_EQ(pipeline.has_finished(),
              pipeline.phase() == "SUCCEEDED" || pipeline.phase() == "FAILED" || pipeline.phase() == "CANCELED")
        << pipeline.phase();
  }

  CoordinatorFixture fixture_;
  CounterRng rng_;
  int made_gangs_ = 0;
  std::string gangs_[3];
  std::vector<std::string> pipelines_, targets_;
  std::vector<std::pair<std::string, v1::Lease>> leases_;
  std::map<std::string, int> attempts_;
  std::map<std::string, std::string> holders_;
  std::map<std::string, v1::JobState> last_;
};

TEST(CoordinatorWalkTest, KeepsItsRulesOver21000Operations) {
  constexpr uint64_t kSeed = 20261124;
  constexpr int kWalks = 35, kSteps = 600;
  std::map<std::string, int> counts;
  for (int walk = 0; walk < kWalks && !::testing::Test::HasFailure(); ++walk) {
    SCOPED_TRACE(concat("walk ", walk));
    Walk run(kSeed + static_cast<uint64_t>(walk));
    for (int step = 0; step < kSteps && !::testing::Test::HasFailure(); ++step) {
      SCOPED_TRACE(concat("step ", step));
      run.step();
    }
    run.finish();
    for (const auto& [name, count] : run.counts) counts[name] += count;
  }
  std::cout << "seed " << kSeed << ": " << kWalks * kSteps << " operations in " << kWalks << " walks;";
  for (const auto& [name, count] : counts) std::cout << " " << name << " " << count << ";";
  std::cout << "\n";
  for (const char* name : {"lease again", "write late", "write again", "write refused", "restart", "quarantined",
                           "pipeline SUCCEEDED", "pipeline FAILED", "pipeline CANCELED"}) {
    EXPECT_GE(counts[name], 10) << name;
  }
}

}  // namespace
}  // namespace moe
