#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <vector>

#include "metrics/exposition.h"
#include "metrics/metrics.h"

namespace moe {
namespace {

using testing::Exposition;
using testing::parse_exposition;

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

TEST(MetricsPageTest, SaysWhatTheProcessUses) {
  const MetricsPage page;
  const Exposition text = parse_exposition(page.text());
  const std::map<std::string, std::string> expected{{"process_cpu_seconds_total", "counter"},
                                                    {"process_open_fds", "gauge"},
                                                    {"process_resident_memory_bytes", "gauge"},
                                                    {"process_start_time_seconds", "gauge"}};
  EXPECT_EQ(text.types, expected);
  EXPECT_GT(text.at("process_resident_memory_bytes"), 1e6);
  EXPECT_GE(text.at("process_cpu_seconds_total"), 0);
  EXPECT_GE(text.at("process_open_fds"), 3);
  EXPECT_GT(text.at("process_start_time_seconds"), unix_time() - 3600);
  EXPECT_LE(text.at("process_start_time_seconds"), unix_time() + 1);
}

TEST(MetricsPageTest, ProcessNumbersAreThoseOfTheMoment) {
  const MetricsPage page;
  const Exposition before = parse_exposition(page.text());
  const std::vector<int> files{open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY)};
  const std::vector<char> memory(64 << 20, 1);  // every page is written
  const auto busy_until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  double cpu = 0;
  do {
    cpu = parse_exposition(page.text()).at("process_cpu_seconds_total") - before.at("process_cpu_seconds_total");
  } while (cpu < 0.05 && std::chrono::steady_clock::now() < busy_until);
  EXPECT_GE(cpu, 0.05);
  const Exposition after = parse_exposition(page.text());
  EXPECT_EQ(after.at("process_open_fds"), before.at("process_open_fds") + 3);
  EXPECT_GT(after.at("process_resident_memory_bytes"), before.at("process_resident_memory_bytes") + 0.8 * (64 << 20));
  EXPECT_EQ(after.at("process_start_time_seconds"), before.at("process_start_time_seconds"));
  EXPECT_EQ(memory.back(), 1);
  for (const int fd : files) close(fd);
}

}  // namespace
}  // namespace moe
