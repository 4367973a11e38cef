#pragma once

namespace moe {

/// SIGUSR1 asks a gang to save and leave (mpirun passes it on to every rank). Installed before MPI starts.
void install_stop_signal();

/// Whether SIGUSR1 has come to this process.
bool stop_signalled();

}  // namespace moe
