// Threads of OpenMP that wait for each other spin for milliseconds before they sleep, and starve each other where ranks
// or programs share cores: one training test took 20 s alone and 480 s beside two copies of itself on two cores (48 s
// when they sleep). libgomp reads OMP_WAIT_POLICY when it is loaded, before main(), so that a program can only choose
// by starting itself anew.
//
// Linked into every program of ours that uses OpenMP (CMake target moe::polite_waiting); nothing calls it. Runs before
// any library has been initialised and before a thread, MPI or an open file exists: the process, its arguments and its
// standard input stay what they were, and it costs no measurable time. A user who set OMP_WAIT_POLICY or GOMP_SPINCOUNT
// has chosen already. A program that was started through the loader by name (ld-linux-x86-64.so.2 ./moe-worker) goes on
// as it is: the file that it could execute again is the loader's, and what stood between the two names is gone.

#include <linux/limits.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <vector>

namespace moe {
namespace {

constexpr const char* kChoices[] = {"OMP_WAIT_POLICY=", "GOMP_SPINCOUNT="};

void execute_again_waiting_politely(int /*argc*/, char** argv, char** environment) {
  // Where the kernel put the loader that the program asks for: nowhere, if it was told to start the loader itself.
  if (getauxval(AT_BASE) == 0) return;
  static char passive[] = "OMP_WAIT_POLICY=PASSIVE";
  std::vector<char*> variables;
  for (; *environment != nullptr; ++environment) {
    for (const char* choice : kChoices) {
      if (std::strncmp(*environment, choice, std::strlen(choice)) == 0) return;
    }
    variables.push_back(*environment);
  }
  variables.push_back(passive);
  variables.push_back(nullptr);
  // Under its own name, which ps shows; by the link where the file was replaced meanwhile.
  std::array<char, PATH_MAX> path{};
  if (readlink("/proc/self/exe", path.data(), path.size() - 1) > 0) execve(path.data(), argv, variables.data());
  execve("/proc/self/exe", argv, variables.data());
  // Without /proc threads spin, which is no reason not to run.
}

/// The loader calls this list of the program before the initialisers of its libraries.
__attribute__((section(".preinit_array"), used)) void (*const first_of_all)(int, char**,
                                                                            char**) = execute_again_waiting_politely;

}  // namespace
}  // namespace moe
