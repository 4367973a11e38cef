#include "comm/mpi_session.h"

#include <mpi.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>

#include "comm/comm_check.h"
#include "comm/mpi_communicator.h"

namespace moe {

MpiSession::MpiSession(int& argc, char**& argv) : under_mpirun_(std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
  if (!under_mpirun_) return;
  int provided = 0;
  MOE_MPI_CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided));
  MOE_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
}

MpiSession::~MpiSession() {
  if (!under_mpirun_) return;
  // On the way out of an exception the peers may never come to MPI_Finalize.
  if (std::uncaught_exceptions() > 0) MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  MPI_Finalize();
}

int MpiSession::world_size() const {
  if (!under_mpirun_) return 1;
  int size = 0;
  MOE_MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size));
  return size;
}

std::unique_ptr<Communicator> MpiSession::make_world(std::chrono::milliseconds timeout) const {
  return under_mpirun_ ? make_mpi_world(timeout) : make_self_communicator();
}

void MpiSession::abort(int exit_code) const {
  if (under_mpirun_) MPI_Abort(MPI_COMM_WORLD, exit_code);
  ::_exit(exit_code);
}

}  // namespace moe
