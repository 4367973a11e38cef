#include "testing/background_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>

#include "testing/process_file.h"

namespace moe::testing {
namespace {

namespace fs = std::filesystem;

struct ProcessEntry {
  pid_t pid;
  pid_t parent;
  pid_t session;
  std::string command;  ///< NUL-separated words
};

std::vector<ProcessEntry> all_processes() {
  std::vector<ProcessEntry> all;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string line;
    if (!std::getline(stat, line)) continue;
    std::istringstream rest(line.substr(line.rfind(')') + 1));
    char state = 0;
    pid_t parent = 0, group = 0, session = 0;
    rest >> state >> parent >> group >> session;
    if (state == 'Z') continue;
    all.push_back({std::stoi(name), parent, session, read_process_file(name, "cmdline")});
  }
  return all;
}

}  // namespace

BackgroundProcess::BackgroundProcess(const std::vector<std::string>& arguments, fs::path log,
                                     const std::map<std::string, std::string>& environment,
                                     const std::string& working_directory)
    : log_(std::move(log)) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ > 0) return;
  setsid();
  const int out = open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), in = open("/dev/null", O_RDONLY);
  if (out < 0 || in < 0 || chdir(working_directory.c_str()) != 0) _exit(127);
  dup2(in, 0);
  dup2(out, 1);
  dup2(out, 2);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  execvp(argv[0], argv.data());
  _exit(127);
}

BackgroundProcess::~BackgroundProcess() {
  // mpirun gives every rank a group of its own; the session holds them together.
  for (const ProcessEntry& process : all_processes()) {
    if (process.session == pid_) ::kill(process.pid, SIGKILL);
  }
  if (!exit_code_) reap(true);
}

void BackgroundProcess::signal(int number) const {
  ::kill(pid_, number);
}

bool BackgroundProcess::reap(bool block) {
  if (exit_code_) return true;
  int status = 0;
  if (waitpid(pid_, &status, block ? 0 : WNOHANG) != pid_) return false;
  exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return true;
}

bool BackgroundProcess::is_running() {
  return !reap(false);
}

std::optional<int> BackgroundProcess::wait(std::chrono::milliseconds timeout) {
  eventually(timeout, [this] { return reap(false); });
  return exit_code_;
}

std::string BackgroundProcess::output() const {
  std::ostringstream text;
  text << std::ifstream(log_).rdbuf();
  return text.str();
}

std::vector<pid_t> descendants(pid_t root, const std::string& program) {
  const std::vector<ProcessEntry> all = all_processes();
  std::set<pid_t> family{root};
  for (bool grew = true; grew;) {
    grew = false;
    for (const ProcessEntry& process : all)
      grew = (family.contains(process.parent) && family.insert(process.pid).second) || grew;
  }
  std::vector<pid_t> found;
  for (const ProcessEntry& process : all) {
    if (process.pid != root && family.contains(process.pid) && process.command.rfind(program, 0) == 0)
      found.push_back(process.pid);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace moe::testing
