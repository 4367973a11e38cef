// A program for gang_test.cc: the ways in which a rank ends while its peers wait for it.

#include <unistd.h>

#include <exception>
#include <iostream>
#include <string_view>

#include "comm/mpi_session.h"
#include "common/error.h"
#include "common/exit_code.h"

namespace {

void run_rank(std::string_view how, moe::MpiSession& session) {
  const auto world = session.make_world(std::chrono::seconds(how == "hang" ? 1 : 100));
  if (how == "lone") return;
  world->barrier("start");
  if (how == "agree" || world->rank() != 1) {
    world->barrier("middle");
  } else if (how == "abort") {
    session.abort(86);
  } else if (how == "throw") {
    throw moe::InvalidArgument("thrown out of the session");
  } else if (how == "die") {
    ::_exit(41);
  } else if (how == "hang") {
    while (true) ::pause();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || std::string_view(argv[1]).starts_with("-")) {
    std::cout << "usage: moe_gang_program agree | abort | throw | die | hang | lone\n"
                 "Under mpirun: what rank 1 does while the others wait. lone: nothing, in one process.\n";
    return argc == 2 ? 0 : 64;
  }
  try {
    moe::MpiSession session(argc, argv);
    try {
      run_rank(argv[1], session);
    } catch (const moe::Timeout& error) {
      std::cerr << error.what() << std::endl;
      session.abort(86);
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return static_cast<int>(moe::exit_code_for(error));
  }
}
