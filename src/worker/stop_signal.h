#pragma once

namespace moe {

/// SIGUSR1 asks a gang to save and leave (mpirun passes it on to every rank). Installed before MPI starts.
void install_stop_signal();

/// Whether SIGUSR1 has come to this process.
bool stop_signalled();

/// From here on SIGTERM ends this process after a second. For the ranks beside the leader: mpirun sends SIGTERM to all,
/// sleeps a second and sends SIGKILL, but its sleep ends when the first of them dies; the leader needs that second to
/// give its job back.
void outlive_end_signal();

/// While it lives, SIGTERM does not end this process: its owner looks whether it came, and ends the process itself. One
/// at a time.
class EndSignal {
 public:
  EndSignal();
  ~EndSignal();
  EndSignal(const EndSignal&) = delete;
  EndSignal& operator=(const EndSignal&) = delete;

  bool came() const;

  /// Ends this process as SIGTERM does where nobody handles it.
  [[noreturn]] static void end_process();
};

}  // namespace moe
