// deploy/gang.sh and MpiSession under a real mpirun: settings of the ranks, exit codes, restarts, signals.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProcessResult;

const std::string kGang = testing::source_dir() + "/deploy/gang.sh";

ProcessResult gang(std::vector<std::string> arguments) {
  std::vector<std::string> command{"bash", kGang};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return testing::run_process(command);
}

ProcessResult shell_gang(std::vector<std::string> options, const std::string& script) {
  options.insert(options.end(), {"--", "sh", "-c", script});
  return gang(options);
}

TEST(GangTest, HelpShowsAnExample) {
  const ProcessResult result = gang({"--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, AllOf(HasSubstr("--ranks N"), HasSubstr("moe-worker run")));
}

TEST(GangTest, RefusesWhatItDoesNotKnow) {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"--rank", "2", "--", "true"}, "unknown argument '--rank'"},
      {{"--ranks", "two", "--", "true"}, "--ranks needs a number from 1 to 9999, not 'two'"},
      {{"--ranks", "0", "--", "true"}, "not '0'"},
      {{"--threads"}, "--threads needs a number from 1 to 9999, not ''"},
      {{"--ranks", "2"}, "no program given"},
  };
  for (const auto& [arguments, message] : cases) {
    const ProcessResult result = gang(arguments);
    EXPECT_EQ(result.exit_code, 64) << message;
    EXPECT_THAT(result.err, HasSubstr(message));
  }
}

TEST(GangTest, EveryRankGetsItsThreads) {
  const testing::TempDir folder;
  const ProcessResult result =
      shell_gang({"--ranks", "3", "--threads", "2", "--once"},
                 "echo $OMPI_COMM_WORLD_SIZE $OMP_NUM_THREADS $MKL_NUM_THREADS $MKL_DYNAMIC $OMP_WAIT_POLICY > " +
                     folder.path().string() + "/$OMPI_COMM_WORLD_RANK");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* rank : {"0", "1", "2"}) EXPECT_EQ(read_file(folder / rank), "3 2 2 FALSE PASSIVE\n");
}

TEST(GangTest, PassesTheExitCodeOnAndStaysQuiet) {
  for (const int code : {0, 1, 65, 75, 86}) {
    const ProcessResult result = shell_gang({"--ranks", "2", "--once"}, "exit " + std::to_string(code));
    EXPECT_EQ(result.exit_code, code);
    EXPECT_EQ(result.err, "");
  }
}

TEST(GangTest, StartsAgainAfterWhatMayPassOnly) {
  const testing::TempDir folder;
  const std::string count = "echo x >> " + folder.path().string() + "/";
  ProcessResult result = shell_gang({}, count + "a; [ $(wc -l < " + folder.path().string() + "/a) = 2 ] || exit 75");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("gang: ended with 75; starting again in 1 s"));
  EXPECT_EQ(read_file(folder / "a"), "x\nx\n");
  result = shell_gang({}, count + "b; exit 65");
  EXPECT_EQ(result.exit_code, 65);
  EXPECT_EQ(read_file(folder / "b"), "x\n");
}

/// Runs a gang whose rank sends `signal` to gang.sh, then waits for its own. `on_signal`: what the rank does with it.
/// `script` sees the folder as $D.
ProcessResult signalled_gang(const testing::TempDir& folder, const std::string& signal, const std::string& script) {
  std::ofstream(folder / "rank.sh") << "D=" << folder.path().string() << "\necho x >> $D/starts\n"
                                    << script << "\nkill -s " << signal
                                    << " $(cat $D/pid)\nwhile :; do sleep 0.05; done\n";
  return testing::run_process({"bash", "-c",
                               "echo $$ > " + folder.path().string() + "/pid; exec bash " + kGang + " -- sh " +
                                   folder.path().string() + "/rank.sh"});
}

TEST(GangTest, Sigusr1ReachesTheRanksAndTheGangStartsAgain) {
  const testing::TempDir folder;
  const ProcessResult result =
      signalled_gang(folder, "USR1", "[ -e $D/released ] && exit 0\ntrap 'touch $D/released; exit 75' USR1");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("ended with 75"));
  EXPECT_EQ(read_file(folder / "starts"), "x\nx\n");
}

TEST(GangTest, SigtermEndsItForGood) {
  const testing::TempDir folder;
  const ProcessResult result = signalled_gang(folder, "TERM", "trap 'exit 75' TERM");
  EXPECT_NE(result.exit_code, 0);
  EXPECT_EQ(read_file(folder / "starts"), "x\n");
  EXPECT_THAT(result.err, Not(HasSubstr("starting again")));
}

class GangProgramTest : public ::testing::Test {
 protected:
  static ProcessResult run(int ranks, const std::string& how) {
    return gang(
        {"--ranks", std::to_string(ranks), "--once", "--", testing::build_dir() + "/bin/moe_gang_program", how});
  }
};

TEST_F(GangProgramTest, EndsInOrder) {
  for (const int ranks : {1, 2, 4}) {
    const ProcessResult result = run(ranks, "agree");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "");
  }
}

TEST_F(GangProgramTest, NeedsNoMpirunForOneRank) {
  const ProcessResult result = testing::run_process({testing::build_dir() + "/bin/moe_gang_program", "agree"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(GangProgramTest, AnAbortEndsTheOthersWithItsCode) {
  EXPECT_EQ(run(2, "abort").exit_code, 86);
}

TEST_F(GangProgramTest, AnExceptionOutOfTheSessionEndsTheOthers) {
  // The destructor must not wait in MPI_Finalize for a peer that waits in a barrier for 100 s.
  const auto started = std::chrono::steady_clock::now();
  EXPECT_NE(run(2, "throw").exit_code, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(50));
}

TEST_F(GangProgramTest, ADeadRankEndsTheOthers) {
  const auto started = std::chrono::steady_clock::now();
  EXPECT_EQ(run(4, "die").exit_code, 41);
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(50));
}

TEST_F(GangProgramTest, ARankThatHangsIsExit86AndTheOperationIsNamed) {
  const ProcessResult result = run(2, "hang");
  EXPECT_EQ(result.exit_code, 86);
  EXPECT_THAT(
      result.err,
      HasSubstr("no answer within 1000 ms in middle (operation 2 of rank 0 of 2; the last ones: 1 start, 2 middle)"));
}

TEST(MpiSessionTest, ManyWorldsOfOneAreRefused) {
  const auto lone = [](const std::map<std::string, std::string>& environment) {
    return testing::run_process({testing::build_dir() + "/bin/moe_gang_program", "lone"}, environment);
  };
  const std::pair<std::map<std::string, std::string>, std::string> refused[] = {
      {{{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}},
       "srun started 4 of (SLURM_STEP_NUM_TASKS=4)"},
      {{{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "3"}}, "srun started 4 of (SLURM_PROCID=3)"},
      {{{"PMI_SIZE", "2"}}, "the mpiexec of another MPI started 2 of (PMI_SIZE=2)"},
  };
  for (const auto& [environment, message] : refused) {
    const ProcessResult result = lone(environment);
    EXPECT_EQ(result.exit_code, 64) << message;
    EXPECT_THAT(result.err, AllOf(HasSubstr(message), HasSubstr("deploy/gang.sh --ranks N")));
  }
  // A batch script's own programs, and a step of one task.
  EXPECT_EQ(lone({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}).exit_code, 0);
  EXPECT_EQ(
      lone({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}, {"PMI_SIZE", "1"}}).exit_code,
      0);
}

}  // namespace
}  // namespace moe
