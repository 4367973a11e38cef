// Command lines: what is wrong with them is said on standard error, and exit code 2 tells scripts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "cli/run_moectl.h"

namespace moe::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kNobody[] = "127.0.0.1:1";

TEST(UsageTest, WrongCommandLinesEndWithTwoAndSayWhy) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{}, "subcommand is required"},
      {{"submitt", "a.yaml"}, "moectl: no such command (submitt); did you mean 'submit'?"},
      {{"lineage"}, "no such command (lineage); known: submit, get, "},
      {{"get", "jobs", "--colour"}, "--colour"},
      {{"get"}, "KIND is required"},
      {{"get", "job"}, "job not in {pipelines,jobs,gangs,artifacts}"},
      {{"get", "jobs", "--state", "runing"}, "did you mean 'RUNNING'?"},
      {{"get", "gangs", "--state", "held"}, "gangs have no such state; known: IDLE, BUSY, UNHEARD, LOST, QUARANTINED"},
      {{"get", "artifacts", "--state", "running"}, "artifacts have no state"},
      {{"get", "jobs", "--limit", "-1"}, "--limit: expected 0 or more, not '-1'"},
      {{"get", "jobs", "-o", "yaml"}, "yaml not in {table,json}"},
      {{"cancel"}, "ID is required"},
      {{"wait", "a", "--for", "succeded"}, "did you mean 'succeeded'?"},
      {{"wait", "a", "--timeout", "soon"}, "--timeout"},
      {{"logs", "a", "--attempt", "0"}, "--attempt: expected a number above 0, not '0'"},
      {{"metrics", "a", "--csv", "--plot"}, "excludes"},
      {{"submit", "a.yaml", "--dry-run", "--wait"}, "excludes"},
      {{"submit", "no-such-file.yaml"}, "no-such-file.yaml"},
      {{"health", "--coordinator", "localhost"}, "not HOST:PORT; for example 127.0.0.1:7070"},
      {{"health", "--coordinator", "localhost:70707070"}, "not HOST:PORT"},
  };
  for (const auto& [arguments, expected] : cases) {
    const ProcessResult result = run_process(
        [&] {
          std::vector<std::string> command{moectl_path()};
          command.insert(command.end(), arguments.begin(), arguments.end());
          return command;
        }(),
        {{"MOE_COORDINATOR", kNobody}});
    EXPECT_EQ(result.exit_code, 2) << expected << "\n" << result.err;
    EXPECT_THAT(result.err, HasSubstr(expected));
    EXPECT_EQ(result.out, "");
  }
  std::cout << cases.size() << " wrong command lines\n";
}

TEST(UsageTest, WordsThatAreNotUtf8) {
  const ProcessResult result = run_moectl(kNobody, {"cancel", "caf\xE9"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("is not UTF-8 ('caf\\xE9')"));
}

TEST(UsageTest, OutputThatCannotBeWrittenIsOneAndAReaderThatLeftIsQuiet) {
  for (const char* command : {"--help", "submit --help", "version"}) {
    const ProcessResult full =
        run_process({"bash", "-c", moectl_path() + " --coordinator " + kNobody + " " + command + " >/dev/full"});
    EXPECT_EQ(full.exit_code, 1) << command;
    EXPECT_THAT(full.err,
                HasSubstr("moectl: cannot write to standard output: No space left on device; is the disk full?"))
        << command;
  }
  const ProcessResult gone =
      run_process({"bash", "-c", "(sleep 0.2; " + moectl_path() + " --help; echo $? >&2) | true"});
  EXPECT_EQ(gone.err, "141\n");
}

TEST(UsageTest, EveryCommandHasHelpWithExamples) {
  for (const char* command : {"submit", "get", "describe", "logs", "watch", "wait", "metrics", "cancel", "pause",
                              "resume", "retry", "readmit", "approve", "reject", "health", "version"}) {
    const ProcessResult result = run_moectl(kNobody, {command, "--help"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.out, HasSubstr("Example")) << command;
    EXPECT_THAT(result.out, HasSubstr(std::string("moectl ") + command)) << "no example calls it";
    EXPECT_EQ(result.err, "");
  }
  EXPECT_THAT(run_moectl(kNobody, {"--help"}).out, HasSubstr("Exit codes"));
}

TEST(UsageTest, TheCoordinatorComesFromFlagThenEnvironmentThenDefault) {
  const auto address_in = [](const std::vector<std::string>& arguments,
                             const std::map<std::string, std::string>& environment) {
    std::vector<std::string> command{"env", "-u", "MOE_COORDINATOR"};
    for (const auto& [name, value] : environment) command.push_back(name + "=" + value);
    command.push_back(moectl_path());
    command.insert(command.end(), arguments.begin(), arguments.end());
    return run_process(command).err;
  };
  EXPECT_THAT(address_in({"health"}, {{"MOE_COORDINATOR", "127.0.0.1:2"}}),
              HasSubstr("no coordinator at 127.0.0.1:2 ("));
  EXPECT_THAT(address_in({"health", "--coordinator", "127.0.0.1:3"}, {{"MOE_COORDINATOR", "127.0.0.1:2"}}),
              HasSubstr("no coordinator at 127.0.0.1:3 ("));
  EXPECT_THAT(address_in({"--help"}, {}), Not(HasSubstr("no coordinator")));
}

TEST(UsageTest, AnAbsentCoordinatorIsFiveWithAdvice) {
  const ProcessResult result = run_moectl(kNobody, {"health"});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_EQ(result.err,
            "moectl: no coordinator at 127.0.0.1:1 (Connection refused); start one with moe-coordinator or give "
            "--coordinator\n");
}

TEST(UsageTest, AWebProxyIsNotAsked) {
  ScriptedCoordinator coordinator;
  coordinator.on_server_info = [](const auto&, v1::ServerInfo& info) {
    info.set_version("9.9");
    return grpc::Status::OK;
  };
  const ProcessResult result =
      run_process({moectl_path(), "health", "--coordinator", coordinator.address()},
                  {{"http_proxy", "http://127.0.0.1:1"}, {"grpc_proxy", "http://127.0.0.1:1"}});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("version 9.9"));
}

}  // namespace
}  // namespace moe::testing
