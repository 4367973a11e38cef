#include "comm/mpi_session.h"

#include <mpi.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <utility>

#include "comm/comm_check.h"
#include "comm/mpi_communicator.h"
#include "common/error.h"

namespace moe {

namespace {

/// The value as a number; 0 where there is none.
long number_in_environment(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? 0 : std::strtol(text, nullptr, 10);
}

}  // namespace

std::string foreign_launcher() {
  // SLURM_NTASKS alone says nothing: it stands in the environment of every program of a batch script, too. What srun
  // started has a step of several tasks, or is not the first one.
  const std::pair<const char*, const char*> launchers[] = {{"SLURM_STEP_NUM_TASKS", "srun"},
                                                           {"PMI_SIZE", "the mpiexec of another MPI"},
                                                           {"MV2_COMM_WORLD_SIZE", "the mpirun of MVAPICH"}};
  for (const auto& [name, launcher] : launchers) {
    if (const long processes = number_in_environment(name); processes > 1) {
      return concat(launcher, " started ", processes, " of (", name, "=", processes, ")");
    }
  }
  if (const long task = number_in_environment("SLURM_PROCID"); task > 0 && number_in_environment("SLURM_NTASKS") > 1) {
    return concat("srun started ", number_in_environment("SLURM_NTASKS"), " of (SLURM_PROCID=", task, ")");
  }
  return "";
}

int local_rank() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized == 0) return 0;
  MPI_Comm node = MPI_COMM_NULL;
  MOE_MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, /*key=*/0, MPI_INFO_NULL, &node));
  int rank = 0;
  MOE_MPI_CHECK(MPI_Comm_rank(node, &rank));
  MOE_MPI_CHECK(MPI_Comm_free(&node));
  return rank;
}

void require_thread_support(int provided) {
  if (provided >= MPI_THREAD_SERIALIZED) return;
  throw HardwareError(concat(
      "this MPI gives thread support ", provided == MPI_THREAD_SINGLE ? "MPI_THREAD_SINGLE" : "MPI_THREAD_FUNNELED",
      " where MPI_THREAD_SERIALIZED is needed: gradients are exchanged by another thread than losses; use an Open "
      "MPI that was built with threads, such as Debian's"));
}

MpiSession::MpiSession(int& argc, char**& argv) : under_mpirun_(std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
  if (!under_mpirun_) {
    const std::string launcher = foreign_launcher();
    if (launcher.empty()) return;
    throw UsageError(concat(
        "this process is one that ", launcher,
        ", and none would know of the others: ranks meet through Open MPI's "
        "mpirun. Start `bash deploy/gang.sh --ranks N -- ...` (or mpirun -n N) once, inside the allocation; for one "
        "process, srun -n 1"));
  }
  int provided = 0;
  MOE_MPI_CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided));
  require_thread_support(provided);
  MOE_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
}

MpiSession::~MpiSession() {
  if (!under_mpirun_) return;
  // On the way out of an exception the peers may never come to MPI_Finalize.
  if (std::uncaught_exceptions() > 0) MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  MPI_Finalize();
}

int MpiSession::rank() const {
  if (!under_mpirun_) return 0;
  int rank = 0;
  MOE_MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  return rank;
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
