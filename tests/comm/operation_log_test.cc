#include "comm/operation_log.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(OperationLogTest, KeepsTheLastOnesInOrder) {
  OperationLog log;
  EXPECT_EQ(log.state().number, 0);
  EXPECT_EQ(log.state().name, "");
  EXPECT_EQ(log.recent(5), "");
  std::string seen;
  log.observe(
      [&](std::string_view op, double, int64_t bytes) { seen += std::string(op) + ":" + std::to_string(bytes) + " "; });
  log.begin("a");
  EXPECT_TRUE(log.state().is_in_flight);
  log.end(16);
  EXPECT_FALSE(log.state().is_in_flight);
  EXPECT_EQ(log.state().seconds_in_flight(), 0);
  log.begin("b");
  EXPECT_GT(log.state().seconds_in_flight(), 0);
  EXPECT_EQ(log.state().name, "b");
  EXPECT_EQ(log.state().number, 2);
  EXPECT_EQ(seen, "a:16 ");
  EXPECT_EQ(log.state().number, 2);
  EXPECT_EQ(log.state().name, "b");
  EXPECT_EQ(log.recent(5), "1 a, 2 b");
  EXPECT_EQ(log.recent(1), "2 b");
  for (int i = 3; i < 100; ++i) log.begin("op" + std::to_string(i));
  log.begin("op100", /*is_after_work=*/true);
  EXPECT_TRUE(log.state().is_in_flight);
  EXPECT_EQ(log.state().seconds_in_flight(), 0) << "a rank that waits for another one's work is not stuck";
  EXPECT_EQ(log.recent(2), "99 op99, 100 op100");
  const std::string all = log.recent(1000);
  EXPECT_EQ(all.substr(0, all.find(',')), "69 op69") << "the ring keeps 32";
}

TEST(OperationLogTest, WhatNobodyWaitsForIsNotInFlight) {
  OperationLog log;
  std::string seen;
  log.observe([&](std::string_view op, double, int64_t) { seen += std::string(op) + " "; });
  EXPECT_EQ(log.start("a"), 1);
  EXPECT_EQ(log.start("b"), 2);
  EXPECT_EQ(log.state().seconds_in_flight(), 0) << "its rank computes";
  EXPECT_EQ(log.state().number, 0);
  EXPECT_EQ(log.recent(5), "1 a, 2 b");
  log.begin_wait("a", 1);
  EXPECT_GT(log.state().seconds_in_flight(), 0);
  EXPECT_EQ(log.state().name, "a");
  EXPECT_EQ(log.state().number, 1);
  log.end(8);
  EXPECT_EQ(log.begin("c"), 3);
  log.end(8);
  log.begin_wait("b", 2);
  log.end(8);
  EXPECT_EQ(seen, "a c b ") << "in the order of the waits";
}

}  // namespace
}  // namespace moe
