#include <CLI/App.hpp>
#include <memory>

#include "common/command_line.h"
#include "common/error.h"
#include "worker/commands.h"
#include "worker/devices.h"
#include "worker/gang.h"

namespace moe {

Subcommand add_serve_command(CLI::App& app) {
  auto settings = std::make_shared<GangSettings>();
  auto root = std::make_shared<std::string>();
  auto orphan = std::make_shared<double>(900);
  auto hang = std::make_shared<double>(30);
  CLI::App* command = app.add_subcommand(
      "serve", "Lease jobs from a coordinator and run them, one after the other (the default command)");
  command->add_option("--coordinator", settings->coordinator, "host:port of moe-coordinator")
      ->envname("MOE_COORDINATOR")
      ->required();
  command
      ->add_option("--data-root", *root,
                   "Folder on shared storage where all results lie; the same as the coordinator's")
      ->envname("MOE_DATA_ROOT")
      ->required();
  command
      ->add_option("--orphan-limit", *orphan,
                   "Seconds that a job goes on while the coordinator is away; then it saves and the gang ends with 75")
      ->capture_default_str()
      ->check(CLI::Range(0.5, 86400.0));
  command->add_option("--hang-timeout", *hang, "Seconds without a sign of life after which a rank counts as hung")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 3600.0));
  command
      ->add_option("--device", settings->device,
                   "What the gang's jobs compute on: it takes those with this gang.device")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  const std::shared_ptr<DeviceOptions> devices = add_device_options(*command);
  const std::shared_ptr<double> timeout = add_collective_timeout(*command);
  command
      ->add_option("--metrics-address", settings->metrics_address,
                   "Address on which every rank serves /metrics, at a free port")
      ->capture_default_str();
  command->footer(
      "Start it under mpirun; deploy/gang.sh holds a good launch line and starts a gang again that ended for a reason "
      "that may pass.\n"
      "SIGUSR1 asks the gang to save a checkpoint and leave (exit code 75).\n\n"
      "Examples:\n"
      "  bash deploy/gang.sh --ranks 2 -- moe-worker serve --coordinator 127.0.0.1:7070 --data-root /shared/moe\n"
      "  MOE_COORDINATOR=127.0.0.1:7070 MOE_DATA_ROOT=/shared/moe mpirun -n 4 moe-worker"
      "\n  bash deploy/gang.sh --ranks 8 -- moe-worker serve --device cuda --coordinator 127.0.0.1:7070 --data-root "
      "/shared/moe");
  return {command,
          [=](Communicator& world) {
            settings->data_root = absolute_path(*root);
            settings->orphan_limit = to_milliseconds(*orphan);
            settings->hang_timeout = to_milliseconds(*hang);
            if (settings->device == "cpu") return serve(*settings, world);
            const OpenedDevices opened = open_devices(*devices, world, to_milliseconds(*timeout));
            settings->gpu = opened.gpu;
            settings->nccl = opened.nccl;
            return serve(*settings, *opened.world);
          },
          /*uses_all_ranks=*/true, timeout};
}

}  // namespace moe
