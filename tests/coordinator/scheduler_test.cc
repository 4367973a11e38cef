#include "coordinator/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>

#include "common/rng.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

QueuedJob job(int64_t created, const std::string& id, GangNeed need = {0, 0, "cpu"}, int64_t not_before = 0) {
  return {created, id, std::move(need), not_before, {}, 0};
}

GangShape gang(int ranks, const std::string& device = "cpu", bool is_idle = true) {
  return {"g", ranks, device, is_idle, "g", false};
}

std::string picked(const std::set<QueuedJob>& queue, const GangShape& shape, int64_t now = 0) {
  const QueuedJob* found = pick(queue, shape, {shape}, now);
  return found == nullptr ? "" : found->id;
}

TEST(SchedulerTest, OldestFirstThenById) {
  std::set<QueuedJob> queue{job(5, "a"), job(3, "c"), job(3, "b"), job(9, "d")};
  std::string order;
  while (const QueuedJob* next = pick(queue, gang(2), {}, 0)) {
    order += next->id;
    queue.erase(QueuedJob(*next));
  }
  EXPECT_EQ(order, "bcad");
}

TEST(SchedulerTest, TheShapeMustFit) {
  EXPECT_TRUE(fits({0, 0, "cpu"}, gang(3)));
  EXPECT_TRUE(fits({4, 0, "cpu"}, gang(4)));
  EXPECT_FALSE(fits({4, 0, "cpu"}, gang(2)));
  EXPECT_FALSE(fits({2, 0, "cpu"}, gang(4)));
  EXPECT_FALSE(fits({0, 0, "cuda"}, gang(4)));
  EXPECT_TRUE(fits({0, 2, "cpu"}, gang(4)));
  EXPECT_FALSE(fits({0, 3, "cpu"}, gang(4)));
  const std::set<QueuedJob> queue{job(1, "wide", {4, 0, "cpu"}), job(2, "gpu", {0, 0, "cuda"}), job(3, "any")};
  EXPECT_EQ(picked(queue, gang(4)), "wide");
  EXPECT_EQ(picked(queue, gang(2)), "any");
  EXPECT_EQ(picked(queue, gang(2, "cuda")), "gpu");
  EXPECT_EQ(picked({}, gang(2)), "");
}

TEST(SchedulerTest, NotBeforeItsTimeAndThenFirst) {
  const std::set<QueuedJob> queue{job(1, "later", {0, 0, "cpu"}, 100), job(2, "now")};
  EXPECT_EQ(picked(queue, gang(1), 99), "now");
  EXPECT_EQ(picked(queue, gang(1), 100), "later");
}

TEST(SchedulerTest, NeedOfASpec) {
  v1::GangSpec spec;
  EXPECT_EQ(need_of(spec).device, "cpu");
  EXPECT_EQ(need_of(spec).ranks, 0);
  spec.set_ranks(4);
  spec.set_expert_parallel(2);
  spec.set_device("cuda");
  EXPECT_EQ(describe(need_of(spec)), "a gang of 4 cuda ranks");
  EXPECT_EQ(need_of(spec).expert_parallel, 2);
  EXPECT_EQ(describe({1, 0, "cpu"}), "a gang of 1 cpu rank");
  EXPECT_EQ(describe({0, 2, "cpu"}), "a gang of cpu ranks whose number 2 divides");
}

TEST(SchedulerTest, AGangThatFailedAJobComesAfterTheOthers) {
  QueuedJob failed = job(1, "failed");
  failed.failed_on = {"a"};
  failed.avoid_until = 100;
  const std::set<QueuedJob> queue{failed, job(2, "next")};
  const GangShape a{"a1", 2, "cpu", true, "a", false}, busy{"b1", 2, "cpu", false, "b", false},
      quarantined{"c1", 2, "cpu", true, "c", true};
  const auto pick_for = [&](const GangShape& gang, const std::vector<GangShape>& all, int64_t now) {
    const QueuedJob* found = pick(queue, gang, all, now);
    return found == nullptr ? "" : found->id;
  };
  EXPECT_EQ(pick_for(a, {a, busy}, 0), "next") << "a busy gang could run it";
  EXPECT_EQ(pick_for(busy, {a, busy}, 0), "failed");
  EXPECT_EQ(pick_for(a, {a, busy}, 100), "failed") << "it does not wait for ever";
  EXPECT_EQ(pick_for(a, {a}, 0), "failed") << "there is no other";
  EXPECT_EQ(pick_for(a, {a, quarantined}, 0), "failed");
  EXPECT_EQ(pick_for(a, {a, {"d1", 3, "cuda", true, "d", false}}, 0), "failed") << "of another shape";
  EXPECT_EQ(pick_for(quarantined, {a, quarantined}, 0), "");
  EXPECT_THAT(
      explain(queue, failed, {a, busy, quarantined}, 0),
      AllOf(HasSubstr("3 connected, 1 idle, 1 quarantined"), HasSubstr("1 idle failed it and may try again in 1 s")));
}

TEST(SchedulerTest, ExplainsWithNumbersAndWhatToDo) {
  const QueuedJob wide = job(3, "wide", {4, 0, "cpu"});
  const std::set<QueuedJob> queue{job(1, "a", {4, 0, "cpu"}), job(2, "b", {2, 0, "cpu"}), wide,
                                  job(4, "late", {4, 0, "cpu"})};
  EXPECT_THAT(explain(queue, wide, {}, 0),
              AllOf(HasSubstr("a gang of 4 cpu ranks"), HasSubstr("no gang is connected"), HasSubstr("--ranks 4")));
  EXPECT_THAT(explain(queue, wide, {}, 0), HasSubstr("moe-worker serve --coordinator"));
  EXPECT_THAT(explain(queue, job(6, "gpu", {4, 0, "cuda"}), {}, 0),
              HasSubstr("moe-worker serve --device cuda --coordinator"));
  EXPECT_THAT(explain(queue, wide, {gang(2), gang(3)}, 0),
              AllOf(HasSubstr("connected gangs have 2 cpu, 3 cpu ranks"), HasSubstr("gang.sh")));
  EXPECT_THAT(explain(queue, wide, {gang(4, "cpu", false), gang(4), gang(2)}, 0),
              AllOf(HasSubstr("2 connected, 1 idle"), HasSubstr("1 job is ahead")));
  EXPECT_THAT(explain(queue, job(5, "x", {0, 0, "cpu"}), {gang(4, "cpu", false)}, 0), HasSubstr("3 jobs are ahead"));
  EXPECT_THAT(explain(queue, job(1, "x", {}, 30'500'000), {}, 0), HasSubstr("waits 31 s"));
}

TEST(SchedulerTest, NothingStarvesUnderEndlessLoad) {
  constexpr uint64_t kSeed = 7;
  constexpr int kRounds = 2000;
  CounterRng rng(kSeed, kStreamTest);
  std::set<QueuedJob> queue;
  int64_t now = 0;
  int submitted = 0, served = 0;
  int64_t last = -1;
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < 2; ++i)
      queue.insert(job(++now, std::to_string(++submitted), {rng.below(2) == 0 ? 2 : 4, 0, "cpu"}));
    const int ranks = rng.below(2) == 0 ? 2 : 4;
    const QueuedJob* next = pick(queue, gang(ranks), {}, now);
    if (next == nullptr) continue;
    for (const QueuedJob& other : queue) {  // nobody older that fits was passed over
      if (other < *next) {
        ASSERT_NE(other.need.ranks, ranks) << other.id;
      }
    }
    last = std::max(last, next->created);
    queue.erase(QueuedJob(*next));
    ++served;
  }
  std::cout << "seed " << kSeed << ": " << submitted << " jobs, " << served << " served in order\n";
  EXPECT_GT(served, kRounds * 9 / 10);
  EXPECT_LE(last, submitted * 6 / 10);  // half of the load: the newer half was not touched
}

}  // namespace
}  // namespace moe
