#include "common/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <system_error>

#include "common/exit_code.h"

namespace moe {
namespace {

TEST(RegistryTest, UnknownNameListsTheKnownOnes) {
  const Registry<int> numbers("number", {{"one", 1}, {"two", 2}});
  EXPECT_EQ(numbers.at("two"), 2);
  EXPECT_THAT(numbers.names(), testing::ElementsAre("one", "two"));
  EXPECT_THAT([&] { numbers.at("three"); },
              ::testing::ThrowsMessage<InvalidArgument>("unknown number 'three'; known: one, two"));
}

TEST(ExitCodeTest, EveryExceptionHasItsCode) {
  EXPECT_EQ(exit_code_for(UsageError("x")), ExitCode::kUsage);
  EXPECT_EQ(exit_code_for(InvalidArgument("x")), ExitCode::kBadInput);
  EXPECT_EQ(exit_code_for(Corruption("x")), ExitCode::kBadInput);
  EXPECT_EQ(exit_code_for(Internal("x")), ExitCode::kInternal);
  EXPECT_EQ(exit_code_for(std::runtime_error("x")), ExitCode::kInternal);
  EXPECT_EQ(exit_code_for(HardwareError("x")), ExitCode::kHardware);
  EXPECT_EQ(exit_code_for(StorageError("x")), ExitCode::kStorage);
  EXPECT_EQ(exit_code_for(std::filesystem::filesystem_error("x", std::make_error_code(std::errc::io_error))),
            ExitCode::kStorage);
  EXPECT_EQ(exit_code_for(Timeout("x")), ExitCode::kHang);
  EXPECT_EQ(exit_code_for(Diverged("x")), ExitCode::kDiverged);
  EXPECT_EQ(exit_code_for(NoReadableCheckpoint("x")), ExitCode::kNoReadableCheckpoint);
}

}  // namespace
}  // namespace moe
