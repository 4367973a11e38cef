// A gang that cannot do its work costs nobody else's: its jobs go elsewhere uncharged, it is known by its record, and
// what no gang can do still ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iostream>

#include "common/rng.h"
#include "coordinator/gang_faults.h"

namespace moe {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::CoordinatorFixture;
using testing::fail;
using testing::gang;
using ::testing::HasSubstr;
using testing::kHang;
using testing::kHardware;
using testing::kInternal;
using testing::kStorage;
using testing::refuse;
using testing::submit_many;

TEST(QuarantineTest, ABadGangGetsNoThirdJobAndNobodyPays) {
  CoordinatorFixture fixture;
  fixture.register_gang("bad", 1, "bad-launcher");
  fixture.register_gang("good");
  const std::vector<std::string> jobs = submit_many(fixture, 6);
  for (const int code : {kHardware, kHang}) ASSERT_TRUE(fail(fixture, "bad", fixture.must_acquire("bad"), code).ok());
  EXPECT_FALSE(fixture.acquire("bad"));
  EXPECT_EQ(gang(fixture, "bad").state(), "quarantined");
  EXPECT_THAT(gang(fixture, "bad").message(),
              AllOf(HasSubstr("failed 2 jobs"), HasSubstr(jobs[1]), HasSubstr("the machine")));
  EXPECT_EQ(gang(fixture, "good").state(), "idle");
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(fixture.state(jobs[i]), "QUEUED");
    EXPECT_EQ(fixture.job(jobs[i]).failures(), 0);
    EXPECT_EQ(fixture.job(jobs[i]).attempts(0).fault(), v1::ATTEMPT_FAULT_GANG);
    EXPECT_THAT(fixture.job(jobs[i]).pending_explanation(), HasSubstr("2 connected, 1 idle, 1 quarantined"));
  }
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
  fixture.restart();
  EXPECT_FALSE(fixture.acquire("bad")) << "it is remembered";
  fixture.register_gang("bad-again", 1, "bad-launcher", 71);
  EXPECT_FALSE(fixture.acquire("bad-again")) << "a launcher's next gang is the same machine";
  for (const std::string& job : jobs) {
    const v1::Lease lease = fixture.must_acquire("good");  // at once, in the order of submission
    EXPECT_EQ(lease.job_id(), job);
    ASSERT_TRUE(fixture.complete("good", lease).ok());
  }
  // The quarantine ends; one more fault is enough for the next, and one result for trust.
  for (int minute = 0; minute < 31; ++minute) {
    fixture.acquire("bad-again");
    fixture.pass(1min);
  }
  submit_many(fixture, 1);
  const v1::Lease probation = fixture.must_acquire("bad-again");
  ASSERT_TRUE(fixture.complete("bad-again", probation).ok());
  EXPECT_EQ(gang(fixture, "bad-again").state(), "idle");
  EXPECT_EQ(gang(fixture, "bad-again").message(), "");
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(QuarantineTest, AMilderFailureElsewhereDoesNotBringAJobBackToTheGangThatItBroke) {
  CoordinatorFixture fixture;
  for (const char* id : {"a", "b", "c"}) fixture.register_gang(id);
  submit_many(fixture, 1);
  const v1::Lease work = fixture.must_acquire("c");  // for days
  const std::string job = submit_many(fixture, 1)[0];
  ASSERT_TRUE(fail(fixture, "a", fixture.must_acquire("a"), kHardware).ok());
  ASSERT_TRUE(refuse(fixture, "b", fixture.must_acquire("b"), v1::REFUSAL_KIND_ROOM).ok());
  for (int i = 0; i < 4; ++i) {
    fixture.pass(10s);
    ASSERT_TRUE(fixture.heartbeat("c", work).ok());
    EXPECT_FALSE(fixture.acquire("a")) << "others did not fail it";
  }
  EXPECT_EQ(fixture.must_acquire("b").job_id(), job);
}

TEST(QuarantineTest, GangsThatWereToldToEndDoNotLengthenTheWaitOfOneThatAJobBroke) {
  CoordinatorFixture fixture;
  for (int i = 0; i < 5; ++i) {
    fixture.register_gang("ended");
    if (i == 0) submit_many(fixture, 1);
    fixture.must_acquire("ended");
    ASSERT_TRUE(fixture.deregister_gang("ended").ok());
  }
  fixture.register_gang("bad");
  fixture.register_gang("busy");
  const v1::Lease lease = fixture.must_acquire("bad");
  submit_many(fixture, 1);
  const v1::Lease work = fixture.must_acquire("busy");
  ASSERT_EQ(fixture.job(lease.job_id()).uncharged_failures(), 5);
  ASSERT_TRUE(fail(fixture, "bad", lease, kHardware).ok());
  int waited = 0;
  for (; !fixture.acquire("bad") && waited < 3 * 3600; waited += 10) {
    fixture.pass(10s);
    ASSERT_TRUE(fixture.heartbeat("busy", work).ok());
  }
  EXPECT_EQ(waited, 30 * 60);
}

TEST(QuarantineTest, AJobThatBrokeAGangWaitsForABusyOneThatItDidNotBreak) {
  for (const bool other_leaves : {false, true}) {
    CoordinatorFixture fixture;
    fixture.register_gang("bad", 1, "bad-launcher");
    fixture.register_gang("busy");
    submit_many(fixture, 1);
    const v1::Lease work = fixture.must_acquire("busy");  // for days
    const std::string job = submit_many(fixture, 1)[0];
    ASSERT_TRUE(fail(fixture, "bad", fixture.must_acquire("bad"), kHardware).ok());
    const std::string next = submit_many(fixture, 1)[0];
    EXPECT_EQ(fixture.must_acquire("bad").job_id(), next) << "jobs that it did not fail come first";
    ASSERT_TRUE(fixture.complete("bad", *fixture.acquire("bad")).ok());
    int attempts = 1;
    std::chrono::seconds passed{0};
    const auto pass = [&](std::chrono::seconds time) {
      for (const auto end = passed + time; passed < end; passed += 10s) {
        fixture.pass(10s);
        ASSERT_TRUE(fixture.heartbeat("busy", work).ok());
        if (const std::optional<v1::Lease> lease = fixture.acquire("bad")) {
          EXPECT_EQ(lease->job_id(), job);
          ++attempts;
          ASSERT_TRUE(fail(fixture, "bad", *lease, kHardware).ok());
        }
      }
    };
    pass(25min);
    EXPECT_EQ(attempts, 1);
    EXPECT_THAT(fixture.job(job).pending_explanation(), HasSubstr("1 idle failed it and may try again in "));
    if (other_leaves) {
      ASSERT_TRUE(fixture.deregister_gang("busy").ok());
      EXPECT_TRUE(fixture.acquire("bad")) << "there is no other any more";
      continue;
    }
    pass(10min);
    EXPECT_EQ(attempts, 2) << "it does not wait for ever";
    pass(8h);
    EXPECT_LE(attempts, 5);
    EXPECT_EQ(fixture.job(job).failures(), 0);
    ASSERT_TRUE(fixture.complete("busy", work).ok());
    EXPECT_EQ(fixture.must_acquire("busy").job_id(), job);
  }
}

TEST(QuarantineTest, AGangThatBroughtAJobOnMayHaveItAgainSoon) {
  CoordinatorFixture fixture;
  fixture.register_gang("a");
  fixture.register_gang("busy");
  submit_many(fixture, 1);
  const v1::Lease work = fixture.must_acquire("busy");
  const std::string job = submit_many(fixture, 1)[0];
  const v1::Lease lease = fixture.must_acquire("a");
  ASSERT_TRUE(fixture.commit("a", lease, 5).ok());
  ASSERT_TRUE(fail(fixture, "a", lease, kHardware).ok());
  EXPECT_FALSE(fixture.acquire("a")) << "the other first";
  for (int i = 0; i < 4; ++i) {
    fixture.pass(10s);
    ASSERT_TRUE(fixture.heartbeat("busy", work).ok());
  }
  EXPECT_EQ(fixture.must_acquire("a").job_id(), job);
}

TEST(QuarantineTest, WaitsForRoomDoNotUseUpWhatOtherReasonsMayCost) {
  CoordinatorFixture fixture;
  fixture.register_gang("a");
  const std::string job = submit_many(fixture, 1)[0];
  for (int i = 0; i < 40; ++i) {
    std::optional<v1::Lease> lease;
    while (!(lease = fixture.acquire("a"))) fixture.pass(10s);
    ASSERT_TRUE(refuse(fixture, "a", *lease, v1::REFUSAL_KIND_ROOM).ok());
  }
  std::optional<v1::Lease> lease;
  while (!(lease = fixture.acquire("a"))) fixture.pass(10s);
  ASSERT_TRUE(fixture.deregister_gang("a").ok());
  EXPECT_EQ(fixture.job(job).attempts().rbegin()->fault(), v1::ATTEMPT_FAULT_NOBODY);
  EXPECT_EQ(fixture.job(job).failures(), 0);
}

TEST(QuarantineTest, FaultsOfADayAgoLeaveTheStore) {
  for (const bool restarts : {false, true}) {
    CoordinatorFixture fixture;
    fixture.register_gang("bad", 1, "gone-for-good");
    fixture.register_gang("good");
    submit_many(fixture, 1);
    ASSERT_TRUE(fail(fixture, "bad", fixture.must_acquire("bad"), kHang).ok());
    EXPECT_EQ(fixture.stored_faults(), std::set<std::string>{"gone-for-good"});
    fixture.clock().advance(25h);
    if (restarts) fixture.restart();
    fixture.coordinator().tick();
    EXPECT_EQ(fixture.stored_faults(), std::set<std::string>{});
  }
}

TEST(QuarantineTest, AGangThatIsReadmittedGetsTheJobsThatWereKeptFromIt) {
  CoordinatorFixture fixture;
  fixture.register_gang("bad", 1, "bad-launcher");
  fixture.register_gang("good");
  const std::string job = submit_many(fixture, 1)[0];
  ASSERT_TRUE(fail(fixture, "bad", fixture.must_acquire("bad"), kHardware).ok());
  ASSERT_FALSE(fixture.acquire("bad"));
  const auto answer = fixture.coordinator().readmit_gang(fixture.control("bad"));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->note(), "");
  EXPECT_EQ(fixture.must_acquire("bad").job_id(), job);
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(QuarantineTest, AnOperatorEndsIt) {
  CoordinatorFixture fixture;
  fixture.register_gang("bad-gang", 1, "bad-launcher");
  fixture.register_gang("good");
  submit_many(fixture, 3);
  for (const int code : {kHardware, kHang})
    ASSERT_TRUE(fail(fixture, "bad-gang", fixture.must_acquire("bad-gang"), code).ok());
  ASSERT_EQ(gang(fixture, "bad-gang").state(), "quarantined");
  const v1::ControlRequest request = fixture.control("bad", "new cable");
  for (const char* time : {"first", "repeated"}) {
    const auto answer = fixture.coordinator().readmit_gang(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->id(), "bad-gang");
    EXPECT_EQ(answer->state(), "idle");
    EXPECT_EQ(answer->note(), "") << time;
  }
  EXPECT_EQ(gang(fixture, "bad-gang").message(), "");
  EXPECT_TRUE(fixture.acquire("bad-gang")) << "the third job";
  EXPECT_EQ(fixture.stored_faults(), std::set<std::string>{});
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
  const auto again = fixture.coordinator().readmit_gang(fixture.control("bad"));
  EXPECT_EQ(again->state(), "busy");
  EXPECT_THAT(again->note(), HasSubstr("not quarantined"));
  EXPECT_EQ(fixture.coordinator().readmit_gang(fixture.control("none")).status().code(), absl::StatusCode::kNotFound);
  v1::WatchRequest watch;
  const v1::WatchResponse history = fixture.coordinator().watch(watch).value();
  EXPECT_TRUE(std::any_of(history.events().begin(), history.events().end(), [](const v1::Event& event) {
    return event.type() == "GANG_READMITTED" && event.actor() == "user ada" &&
           event.message() == "gang bad-gang readmitted by ada: new cable";
  }));
}

TEST(QuarantineTest, AFullDataRootIsWaitedFor) {
  for (const bool is_noticed_before : {true, false}) {
    CoordinatorFixture fixture;
    fixture.register_gang("a");
    fixture.register_gang("b");
    const std::vector<std::string> jobs = submit_many(fixture, 3);
    int taken = 0;
    for (int i = 0; i < 600; ++i) {
      fixture.pass(10s);
      for (const char* id : {"a", "b"}) {
        const std::optional<v1::Lease> lease = fixture.acquire(id);
        if (!lease) continue;
        ++taken;
        ASSERT_TRUE((is_noticed_before ? refuse(fixture, id, *lease, v1::REFUSAL_KIND_ROOM)
                                       : fail(fixture, id, *lease, kStorage))
                        .ok());
      }
    }
    std::cout << "100 minutes without room: " << taken << " attempts of 3 jobs\n";
    for (const std::string& job : jobs) {
      EXPECT_EQ(fixture.state(job), "QUEUED") << fixture.job(job).DebugString();
      EXPECT_EQ(fixture.job(job).failures(), 0);
    }
    EXPECT_LT(taken, 60) << "the waits grow";
    for (int i = 0; i < 200; ++i) {
      fixture.pass(10s);
      for (const char* id : {"a", "b"}) {
        if (const std::optional<v1::Lease> lease = fixture.acquire(id)) {
          ASSERT_TRUE(fixture.complete(id, *lease).ok());
        }
      }
    }
    for (const std::string& job : jobs) EXPECT_EQ(fixture.state(job), "SUCCEEDED");
  }
}

TEST(QuarantineTest, AJobThatBreaksEveryGangEndsAndTheGangsServeOn) {
  CoordinatorFixture fixture;
  const std::vector<std::string> gangs{"a", "b", "c"};
  for (const std::string& id : gangs) fixture.register_gang(id);
  const std::vector<std::string> poison = submit_many(fixture, 2);
  const auto serve = [&](int rounds) {
    for (int i = 0; i < rounds; ++i) {
      fixture.pass(10s);
      for (const std::string& id : gangs) {
        const std::optional<v1::Lease> lease = fixture.acquire(id);
        if (!lease) continue;
        const bool is_poison = std::find(poison.begin(), poison.end(), lease->job_id()) != poison.end();
        ASSERT_TRUE((is_poison ? fail(fixture, id, *lease, kInternal, "it broke") : fixture.complete(id, *lease)).ok());
      }
    }
  };
  serve(200);
  for (const std::string& job : poison) {
    EXPECT_EQ(fixture.state(job), "FAILED");
    EXPECT_EQ(fixture.job(job).message(), "it broke");
    EXPECT_LE(fixture.job(job).attempt(), 2 + 5 + 2) << "every gang once, then the budget";
  }
  const std::vector<std::string> innocent = submit_many(fixture, 9);
  serve(10);
  for (const std::string& job : innocent) EXPECT_EQ(fixture.state(job), "SUCCEEDED");
  for (const std::string& id : gangs)
    EXPECT_NE(gang(fixture, id).state(), "quarantined") << gang(fixture, id).message();
}

// Ten gangs that fail whatever they get, each in its own way, and two that do not; whoever asks first gets a job.
TEST(QuarantineTest, TenBadGangsAmongTwoGoodOnesFailNoJob) {
  constexpr uint64_t kSeed = 20261128;
  constexpr int kCampaigns = 12, kBad = 10, kJobs = 40;
  int failed = 0, charged = 0, attempts = 0, not_found_out = 0, wrongly = 0;
  for (int campaign = 0; campaign < kCampaigns; ++campaign) {
    CounterRng rng(kSeed + campaign, kStreamTest);
    CoordinatorFixture fixture;
    std::ofstream(fixture.root() / "data.jsonl") << "{}";
    std::vector<std::string> gangs;
    std::vector<std::string> launchers;
    for (int i = 0; i < kBad + 2; ++i) {
      gangs.push_back(concat(i < kBad ? "bad" : "good", i));
      launchers.push_back(concat("launcher", i));
      fixture.register_gang(gangs.back(), 1, launchers.back());
    }
    const std::vector<std::string> jobs = submit_many(fixture, 1 + static_cast<int>(rng.below(kJobs)));
    std::map<std::string, v1::Lease> works;  // of the good
    std::map<std::string, int> left;
    const auto all_ended = [&] {
      return std::all_of(jobs.begin(), jobs.end(),
                         [&](const std::string& job) { return is_terminal(fixture.job(job).state()); });
    };
    for (int round = 0; round < 4000 && !all_ended(); ++round) {
      fixture.pass(std::chrono::seconds(1 + rng.below(5)));
      const size_t index = rng.below(gangs.size());
      const std::string id = gangs[index];
      for (size_t good = kBad; good < gangs.size(); ++good) {  // a busy gang's heartbeat, or its end
        const auto work = works.find(gangs[good]);
        if (work == works.end()) continue;
        if (--left[gangs[good]] > 0) {
          ASSERT_TRUE(fixture.heartbeat(gangs[good], work->second).ok());
        } else {
          ASSERT_TRUE(fixture.complete(gangs[good], work->second).ok());
          works.erase(work);
        }
      }
      for (size_t other = 0; other < gangs.size(); ++other) {  // an idle gang asks all the time
        if (other == index || works.contains(gangs[other])) continue;
        if (other < kBad) continue;
        if (const std::optional<v1::Lease> lease = fixture.acquire(gangs[other])) {
          works[gangs[other]] = *lease;
          left[gangs[other]] = 1 + static_cast<int>(rng.below(30));
        }
      }
      if (index >= kBad || works.contains(id)) continue;
      const std::optional<v1::Lease> lease = fixture.acquire(id);
      if (!lease) continue;
      ++attempts;
      switch (index % 5) {
        case 0: ASSERT_TRUE(fail(fixture, id, *lease, kHardware).ok()); break;
        case 1:
          ASSERT_TRUE(refuse(fixture, id, *lease, v1::REFUSAL_KIND_INPUTS, fixture.root() / "data.jsonl").ok());
          break;
        case 2:
          ASSERT_TRUE(refuse(fixture, id, *lease, v1::REFUSAL_KIND_INPUTS, "/only/good/gangs/see/this").ok());
          break;
        case 3: ASSERT_TRUE(refuse(fixture, id, *lease, v1::REFUSAL_KIND_DATA_ROOT).ok()); break;
        default:  // it crashes, and its launcher starts the next
          gangs[index] = concat("bad", index, "-", round);
          fixture.register_gang(gangs[index], 1, launchers[index], 139);
      }
    }
    for (const std::string& job : jobs) {
      failed += fixture.state(job) != "SUCCEEDED";
      charged += fixture.job(job).failures() > 0;
    }
    if (jobs.size() >= 20) {
      for (size_t i = 0; i < gangs.size(); ++i) {
        const bool is_out = !gang(fixture, gangs[i]).message().empty();
        if (i < kBad) not_found_out += !is_out;
        if (i >= kBad) wrongly += is_out;
      }
    }
    EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
  }
  std::cout << "seed " << kSeed << ": " << kCampaigns << " campaigns of " << kBad << " bad gangs among 2 good, "
            << attempts << " attempts by bad ones: " << failed << " innocent jobs failed, " << charged << " charged, "
            << not_found_out << " bad gangs not in quarantine at the end, " << wrongly << " good ones in it\n";
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(charged, 0);
  EXPECT_EQ(wrongly, 0);
}

}  // namespace
}  // namespace moe
