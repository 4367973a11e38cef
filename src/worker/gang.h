#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "comm/communicator.h"
#include "common/exit_code.h"

namespace moe {

struct GangSettings {
  std::string coordinator;  ///< host:port
  std::filesystem::path data_root;
  std::chrono::milliseconds orphan_limit{900'000};
  std::chrono::milliseconds hang_timeout{30'000};
  std::string metrics_address = "127.0.0.1";
  std::string device = "cpu";  ///< that jobs of the gang compute on: "cpu" or "cuda"
  std::string gpu = "none";    ///< name of this rank's
  std::string nccl{};          ///< version; empty where it is not used
};

/// A gang's life: rank 0 leases jobs, all ranks run them, until SIGUSR1 (kReleased) or an error that the gang cannot
/// survive. Collective over `world`.
///
///   leader:      register -> acquire -> look at the job (all ranks) -> start -> run -> complete -> acquire ...
///   other rank:  wait for an order on GangControl -> look at the job -> run -> wait ...
ExitCode serve(const GangSettings& settings, Communicator& world);

}  // namespace moe
