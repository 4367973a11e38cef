#include "coordinator/gang_health.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/time_util.h>
#include <gtest/gtest.h>

#include <limits>

// When a gang counts as the one to blame. Seconds since the epoch here, microseconds there.
namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000;
constexpr int64_t kQuarantine = 1800;
constexpr int64_t kFinished = std::numeric_limits<int64_t>::max();

v1::GangFault fault(const std::string& job, int64_t at, int64_t step = 0, bool could_run_elsewhere = true) {
  v1::GangFault made;
  made.set_job_id(job);
  *made.mutable_at() = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(at * kSecond);
  made.set_step(step);
  made.set_could_run_elsewhere(could_run_elsewhere);
  made.set_message("no such file");
  return made;
}

bool is_quarantined(const GangHealth& health, const std::string& gang, int64_t at) {
  return health.is_quarantined(gang, at * kSecond);
}

TEST(GangHealthTest, TwoJobsThatOthersCouldRunMakeAQuarantine) {
  GangHealth health(kQuarantine * kSecond);
  EXPECT_THAT(health.failed("bad", fault("a", 10)), IsEmpty());
  EXPECT_THAT(health.failed("bad", fault("a", 20)), IsEmpty()) << "the same job again";
  EXPECT_FALSE(is_quarantined(health, "bad", 20));
  EXPECT_EQ(health.why("bad", 20 * kSecond), "");
  EXPECT_THAT(health.failed("bad", fault("b", 30)), ElementsAre("bad"));
  EXPECT_TRUE(is_quarantined(health, "bad", 30));
  EXPECT_FALSE(is_quarantined(health, "good", 30));
  EXPECT_THAT(health.why("bad", 30 * kSecond), AllOf(HasSubstr("failed 2 jobs"), HasSubstr("the last b: no such file"),
                                                     HasSubstr("until 1970-01-01 00:30:30")));
  // It ends by itself; the next fault is one too many at once.
  EXPECT_TRUE(is_quarantined(health, "bad", 30 + kQuarantine - 1));
  EXPECT_FALSE(is_quarantined(health, "bad", 30 + kQuarantine));
  EXPECT_THAT(health.failed("bad", fault("c", 2000)), ElementsAre("bad"));
}

TEST(GangHealthTest, WhatNoOtherGangCouldRunIsNotHeldAgainstIt) {
  GangHealth health(kQuarantine * kSecond);
  for (const char* job : {"a", "b", "c"})
    EXPECT_THAT(health.failed("only", fault(job, 10, 0, /*could_run_elsewhere=*/false)), IsEmpty());
  EXPECT_FALSE(is_quarantined(health, "only", 10));
}

TEST(GangHealthTest, AJobThatTwoGangsFailedIsSuspectUntilOneGetsFurther) {
  GangHealth health(kQuarantine * kSecond);
  health.failed("g", fault("poison", 10, 5));
  health.failed("g", fault("other poison", 11, 5));
  EXPECT_TRUE(is_quarantined(health, "g", 11));
  health.failed("h", fault("poison", 12, 7));
  EXPECT_FALSE(is_quarantined(health, "g", 12)) << "it was the job";
  EXPECT_FALSE(is_quarantined(health, "h", 12));
  // A third gets as far as the first two did, and then beyond the first.
  EXPECT_THAT(health.worked("good", "poison", 5, 13 * kSecond), IsEmpty());
  EXPECT_FALSE(is_quarantined(health, "g", 13));
  EXPECT_THAT(health.worked("good", "poison", 6, 14 * kSecond), ElementsAre("g")) << "so it was the gang";
  EXPECT_FALSE(is_quarantined(health, "h", 14));
  health.failed("h", fault("third", 15));
  EXPECT_THAT(health.worked("good", "poison", kFinished, 16 * kSecond), ElementsAre("h"));
}

TEST(GangHealthTest, WhoBringsAJobForwardIsSound) {
  GangHealth health(kQuarantine * kSecond);
  health.failed("g", fault("a", 10));
  health.worked("g", "b", 1, 11 * kSecond);
  EXPECT_FALSE(health.record("g").has_value());
  EXPECT_THAT(health.failed("g", fault("c", 12)), IsEmpty());
  health.failed("h", fault("a", 13));
  EXPECT_THAT(health.failed("h", fault("c", 13)), IsEmpty()) << "two gangs failed c";
  EXPECT_THAT(health.failed("h", fault("d", 13)), ElementsAre("h")) << "a is no longer held against g";
}

TEST(GangHealthTest, OldFaultsAreForgotten) {
  GangHealth health(kQuarantine * kSecond);
  health.failed("g", fault("a", 10));
  EXPECT_THAT(health.failed("g", fault("b", 10 + 25 * 3600)), IsEmpty());
}

TEST(GangHealthTest, WhatALauncherThatNeverReturnsDidIsForgottenToo) {
  constexpr int64_t kHour = 3600;
  GangHealth health(kQuarantine * kSecond);
  health.failed("gone", fault("a", 10));
  health.failed("h", fault("a", 20 * kHour));
  health.take_changed();
  health.forget_old(23 * kHour * kSecond);
  EXPECT_THAT(health.take_changed(), IsEmpty());
  health.forget_old(25 * kHour * kSecond);
  EXPECT_THAT(health.take_changed(), ElementsAre("gone", "h"));
  EXPECT_FALSE(health.record("gone").has_value());
  EXPECT_THAT(health.failed("h", fault("b", 25 * kHour)), IsEmpty()) << "a was failed by two, whoever remembers";
  EXPECT_THAT(health.failed("h", fault("c", 26 * kHour)), ElementsAre("h"));
  // A quarantine that is longer than a day lasts as long as it lasts.
  GangHealth strict(48 * kHour * kSecond);
  strict.failed("g", fault("a", 10));
  strict.failed("g", fault("b", 20));
  strict.forget_old(30 * kHour * kSecond);
  EXPECT_TRUE(is_quarantined(strict, "g", 30 * kHour));
}

TEST(GangHealthTest, AQuarantineLastsUntilTheTimeThatWasTold) {
  constexpr int64_t kDay = 24 * 3600;
  GangHealth health(kQuarantine * kSecond);
  health.failed("g", fault("a", 10));
  health.failed("g", fault("b", kDay - 600));
  health.forget_old((kDay + 60) * kSecond);
  EXPECT_TRUE(is_quarantined(health, "g", kDay + 60));
  health.forget_old((kDay - 600 + kQuarantine) * kSecond);
  EXPECT_THAT(health.failed("g", fault("c", kDay - 600 + kQuarantine)), ElementsAre("g")) << "b is young";
  EXPECT_EQ(health.record("g")->faults_size(), 2) << "a is not";
}

TEST(GangHealthTest, WhatASoundGangFailedTooIsNotHeldAgainstTheOther) {
  GangHealth health(kQuarantine * kSecond);
  for (const char* gang : {"bad?", "sound"}) {
    for (const char* job : {"a", "b"}) health.failed(gang, fault(job, 10));
  }
  EXPECT_THAT(health.worked("sound", "c", 1, 11 * kSecond), IsEmpty());
  EXPECT_FALSE(is_quarantined(health, "bad?", 11)) << "a gang that works failed both jobs";
}

TEST(GangHealthTest, WhatAnotherGangProvedIsNotUndoneByFailingOnceMore) {
  GangHealth health(kQuarantine * kSecond);
  health.failed("g", fault("a", 10));
  health.worked("good", "a", kFinished, 11 * kSecond);
  health.failed("g", fault("a", 12));  // it was retried, and two gangs fail it now
  health.failed("h", fault("a", 13));
  EXPECT_THAT(health.failed("g", fault("b", 14)), ElementsAre("g"));
}

TEST(GangHealthTest, APersonMayForgive) {
  GangHealth health(kQuarantine * kSecond);
  for (const char* job : {"a", "b", "c"}) health.failed("g", fault(job, 10));
  health.failed("h", fault("c", 11));
  ASSERT_TRUE(is_quarantined(health, "g", 11));
  health.take_changed();
  health.forgive("g");
  EXPECT_FALSE(is_quarantined(health, "g", 11));
  EXPECT_FALSE(health.record("g").has_value());
  EXPECT_THAT(health.take_changed(), ElementsAre("g", "h"));
  EXPECT_THAT(health.failed("h", fault("d", 12)), IsEmpty())
      << "c stays suspect: to forgive one gang is no evidence against another";
  EXPECT_THAT(health.failed("g", fault("d", 13)), IsEmpty());
  health.forgive("unknown");
}

TEST(GangHealthTest, ItsRecordsBringItBack) {
  GangHealth health(kQuarantine * kSecond);
  health.failed("g", fault("a", 10));
  health.failed("g", fault("b", 11));
  health.failed("h", fault("b", 12));
  health.worked("good", "b", kFinished, 13 * kSecond);
  EXPECT_THAT(health.take_changed(), ElementsAre("g", "h"));
  EXPECT_THAT(health.take_changed(), IsEmpty());
  GangHealth again(kQuarantine * kSecond);
  for (const char* gang : {"g", "h"}) again.load(health.record(gang).value());
  for (const char* gang : {"g", "h", "good"})
    EXPECT_EQ(health.why(gang, 13 * kSecond), again.why(gang, 13 * kSecond)) << gang;
  EXPECT_TRUE(is_quarantined(again, "g", 13));
  health.worked("g", "z", 1, 14 * kSecond);
  EXPECT_THAT(health.take_changed(), ElementsAre("g"));
  EXPECT_FALSE(health.record("g").has_value());
}

}  // namespace
}  // namespace moe
