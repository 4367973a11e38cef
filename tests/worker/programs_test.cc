// What every program of the build has in common: it helps, and its threads wait politely.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;

/// Names of what was built into bin/; test binaries, whose help is GoogleTest's, aside.
std::vector<std::string> programs() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fs::path(testing::build_dir()) / "bin")) {
    const std::string name = entry.path().filename();
    const bool is_program =
        entry.is_regular_file() && access(entry.path().c_str(), X_OK) == 0 && name.find(".so") == std::string::npos;
    if (is_program && !name.ends_with("_tests")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string path_of(const std::string& program) {
  return testing::build_dir() + "/bin/" + program;
}

TEST(ProgramsTest, EveryProgramHasHelpAndDoesNothingElse) {
  EXPECT_THAT(programs(), IsSupersetOf({"moe-worker", "moe-coordinator", "moectl"}));
  for (const std::string& program : programs()) {
    const testing::TempDir folder;
    const testing::ProcessResult help =
        testing::run_process({path_of(program), "--help"}, {{"TMPDIR", folder.path()}}, folder.path());
    EXPECT_EQ(help.exit_code, 0) << program << ": " << help.err;
    std::string text = help.out;
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    EXPECT_THAT(text, HasSubstr("usage")) << program;
    EXPECT_THAT(help.err, IsEmpty()) << program;
    EXPECT_TRUE(fs::is_empty(folder.path())) << program << " wrote something";
  }
}

/// What each libgomp in the process says of GOMP_SPINCOUNT, how often a waiting thread looks before it sleeps.
std::vector<std::string> spins(std::vector<std::string> command) {
  command.insert(command.begin(), {"env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT", "OMP_DISPLAY_ENV=verbose"});
  std::istringstream said(testing::run_process(command).err);
  std::vector<std::string> counts;
  for (std::string line; std::getline(said, line);) {
    if (const size_t at = line.find("GOMP_SPINCOUNT = "); at != std::string::npos) counts.push_back(line.substr(at));
  }
  return counts;
}

TEST(ProgramsTest, ThreadsThatWaitSleepUnlessTheUserChoseOtherwise) {
  std::vector<std::string> with_openmp;
  for (const std::string& program : programs()) {
    if (program == "moe_gang_program") continue;  // lives under gang.sh, which sets it
    const std::vector<std::string> counts = spins({path_of(program), "--help"});
    if (counts.empty()) continue;
    with_openmp.push_back(program);
    // The last one speaks: the program that was started anew.
    EXPECT_EQ(counts.back(), "GOMP_SPINCOUNT = '0'") << program;
  }
  EXPECT_THAT(with_openmp, IsSupersetOf({"moe-worker"}));
  const std::string worker = testing::worker_path();
  EXPECT_THAT(spins({"env", "GOMP_SPINCOUNT=77", worker, "--help"}),
              AllOf(Not(IsEmpty()), Each("GOMP_SPINCOUNT = '77'")));
  EXPECT_THAT(spins({"env", "OMP_WAIT_POLICY=active", worker, "--help"}),
              AllOf(Not(IsEmpty()), Each(Not("GOMP_SPINCOUNT = '0'"))));
}

TEST(ProgramsTest, AWorkerThatStartedItselfAnewIsStillItself) {
  // Its arguments, whatever bytes they hold; its standard input; its name; its process.
  const std::string plain = "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT ", worker = testing::worker_path();
  const testing::ProcessResult result =
      testing::run_process({"bash", "-c", plain + worker + " inspect $'/no \"such\" \\n folder'"});
  EXPECT_EQ(result.exit_code, 65);
  EXPECT_THAT(result.err, AllOf(HasSubstr("such"), HasSubstr("folder")));
  const testing::TempDir folder;
  const testing::ProcessResult served = testing::run_process(
      {"bash", "-c",
       plain + worker + " serve --coordinator 127.0.0.1:1 --data-root " + folder.path().string() +
           " & sleep 1; cat /proc/$!/comm; tr '\\0' '\\n' < /proc/$!/environ | grep WAIT; kill -9 $!"});
  EXPECT_EQ(served.out, "moe-worker\nOMP_WAIT_POLICY=PASSIVE\n") << served.err;
  const testing::ProcessResult ranks = testing::run_process(
      {"bash", "-c",
       plain + "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --quiet -n 2 " +
           worker + " inspect /nowhere"});
  EXPECT_EQ(ranks.exit_code, 64);
  EXPECT_THAT(ranks.err, HasSubstr("mpirun started 2"));
}

/// Of this process, and of every program of the build.
std::string loader_path() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* found) {
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& part = object->dlpi_phdr[i];
          if (part.p_type == PT_INTERP)
            *static_cast<std::string*>(found) = reinterpret_cast<const char*>(object->dlpi_addr + part.p_vaddr);
        }
        return 1;  // the first object is the program
      },
      &path);
  return path;
}

/// There is no second start then: the file that runs, as /proc has it, is the loader's.
TEST(ProgramsTest, AWorkerMayBeStartedThroughTheLoaderByName) {
  const std::string worker = testing::worker_path(), loader = loader_path();
  ASSERT_THAT(loader, HasSubstr("ld-"));
  const std::vector<std::string> plain{"env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT"};
  const auto run = [&](const std::vector<std::string>& words) {
    std::vector<std::string> command = plain;
    command.insert(command.end(), words.begin(), words.end());
    return testing::run_process(command);
  };
  const testing::ProcessResult direct = run({worker, "inspect", "--help"}),
                               loaded = run({loader, worker, "inspect", "--help"});
  EXPECT_EQ(direct.exit_code, 0) << direct.err;
  EXPECT_EQ(loaded.exit_code, 0) << loaded.err;
  EXPECT_THAT(loaded.out, HasSubstr("moe-worker"));
  EXPECT_EQ(loaded.out, direct.out);
  EXPECT_EQ(loaded.err, direct.err);
}

TEST(CollectiveTimeoutTest, IsBounded) {
  for (const char* value : {"0", "86401"}) {
    const testing::ProcessResult result =
        testing::run_process({testing::worker_path(), "run", "p.yaml", "--collective-timeout", value});
    EXPECT_EQ(result.exit_code, 64) << value;
    EXPECT_THAT(result.err, HasSubstr("--collective-timeout")) << value;
  }
}

}  // namespace
}  // namespace moe
