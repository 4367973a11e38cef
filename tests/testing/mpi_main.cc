// main() of test binaries that run under a real mpirun: every rank runs the same tests, rank 0 speaks, a failure on any
// rank fails the run.

#include <gtest/gtest.h>

#include <chrono>
#include <iostream>
#include <memory>

#include "comm/mpi_session.h"
#include "testing/mpi_world.h"

namespace moe::testing {
namespace {

std::unique_ptr<Communicator> world;

/// Ranks other than 0 print what failed, and no more.
class FailurePrinter final : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed())
      std::cerr << "rank " << world->rank() << ": " << result.file_name() << ":" << result.line_number() << ": "
                << result.summary() << std::endl;
  }
};

}  // namespace

Communicator& mpi_world() {
  return *world;
}

}  // namespace moe::testing

int main(int argc, char** argv) {
  moe::MpiSession session(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  moe::testing::world = session.make_world(std::chrono::seconds(60));
  if (moe::testing::world->rank() != 0) {
    ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new moe::testing::FailurePrinter);
  }
  const int status = RUN_ALL_TESTS();
  // One rank's failure leaves the others in a collective: end them all.
  if (status != 0) session.abort(status);
  moe::testing::world.reset();
  return status;
}
