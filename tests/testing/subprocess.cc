#include "testing/subprocess.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/temp_dir.h"

namespace moe::testing {

ProcessResult run_process(const std::vector<std::string>& arguments,
                          const std::map<std::string, std::string>& environment, const std::string& working_directory) {
  const TempDir folder;
  const std::string out_file = folder / "out", err_file = folder / "err";
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    const int out = open(out_file.c_str(), O_WRONLY | O_CREAT, 0600),
              err = open(err_file.c_str(), O_WRONLY | O_CREAT, 0600);
    const int in = open("/dev/null", O_RDONLY);
    if (out < 0 || err < 0 || in < 0 || chdir(working_directory.c_str()) != 0) _exit(127);
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) throw std::runtime_error("waitpid failed");
  return {WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status), read_file(out_file), read_file(err_file)};
}

std::string worker_path() {
  return build_dir() + "/bin/moe-worker";
}

std::vector<std::string> worker_command(int ranks, std::vector<std::string> arguments) {
  std::vector<std::string> command;
  if (ranks > 1) {
    command = {"bash", source_dir() + "/deploy/gang.sh", "--ranks", std::to_string(ranks), "--threads", "1", "--once",
               "--"};
  }
  command.push_back(worker_path());
  for (std::string& argument : arguments) command.push_back(std::move(argument));
  return command;
}

}  // namespace moe::testing
