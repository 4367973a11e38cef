#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>

#include "common/command_line.h"
#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "common/log.h"
#include "common/standard_output.h"
#include "coordinator/data_root_hold.h"
#include "coordinator/http_pages.h"
#include "coordinator/metric_labels.h"
#include "coordinator/reporter.h"
#include "coordinator/services.h"

namespace moe {
namespace {

constexpr char kFooter[] =
    "Example:\n"
    "  moe-coordinator --data-root /shared/moe --store /var/lib/moe/coordinator.db\n"
    "  mpirun -n 2 moe-worker serve --coordinator 127.0.0.1:7070 --data-root /shared/moe\n"
    "  moectl submit pipeline.yaml\n\n"
    "SIGTERM or SIGINT stops it in order; killed in any other way it loses nothing that it acknowledged. Gangs go on "
    "while it is\n"
    "away and find it again.\n\n"
    "Exit codes: 0 stopped; 64 usage or a port in use; 65 the store or the data root cannot be used (in use, another "
    "one, not\n"
    "mounted); 74 storage failed.";

struct Flags {
  std::string address = "127.0.0.1";
  int port = 7070;
  int http_port = 9090;
  std::string store = "moe-coordinator.db";
  std::string data_root;
  double lease_seconds = 15;
  double heartbeat_seconds = 3;
  double retry_backoff_seconds = 30;
  double quarantine_seconds = 1800;
  double input_grace_seconds = 120;
};

std::atomic<int> stop_signal{0};

void remember_signal(int signal) {
  stop_signal = signal;
}

void install_signals() {
  struct sigaction action {};
  action.sa_handler = remember_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

/// gRPC 1.51 stops accepting for good when it runs out of descriptors (CVE-2023-4785): have plenty.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t kLeast = 4096;
  if (limit.rlim_cur < kLeast)
    throw UsageError(concat("at most ", limit.rlim_cur, " open files are allowed here; moe-coordinator wants ", kLeast,
                            ": raise `ulimit -n`"));
}

std::unique_ptr<grpc::Server> start_server(const Flags& flags, JobServiceAdapter& jobs, WorkerServiceAdapter& workers,
                                           int& port) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(concat(flags.address, ":", flags.port), grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping every 20 s, also between calls; the default policy would cut them off.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.RegisterService(&jobs);
  builder.RegisterService(&workers);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server || port == 0) {
    throw UsageError(concat("cannot listen on ", flags.address, ":", flags.port,
                            ": the port is in use or the address is not ours; give another --port"));
  }
  return server;
}

/// Which coordinator this is, for another that finds the data root taken.
std::string name_of(const Flags& flags, int port) {
  char machine[256] = "";
  gethostname(machine, sizeof machine - 1);
  return concat("process ", getpid(), " on ", machine, ", serving ", flags.address, ":", port, " with --store ",
                std::filesystem::absolute(flags.store).string());
}

ExitCode serve(const Flags& flags) {
  if (flags.address != "127.0.0.1" && flags.address != "::1" && flags.address != "localhost") {
    throw UsageError(concat("--address ", flags.address,
                            ": plain text is spoken on loopback only; reach it from elsewhere through an ssh tunnel"));
  }
  if (flags.heartbeat_seconds * 2 > flags.lease_seconds) {
    throw UsageError(concat("--heartbeat ", flags.heartbeat_seconds, " s must be at most half of --lease ",
                            flags.lease_seconds, " s"));
  }
  install_signals();
  raise_descriptor_limit();
  const auto milliseconds = [](double seconds) {
    return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  };
  SystemClock clock;
  MetricsPage page;
  CoordinatorMetrics metrics(page, metric_labels());
  LongPolls long_polls;
  Store store(flags.store);
  const DataRootHold root(flags.data_root, store);
  const std::filesystem::path& data_root = root.path();
  root.announce(name_of(flags, flags.port));
  store.on_commit([&metrics](double seconds) { metrics.store_commit(seconds); });
  auto listener = std::make_unique<HttpServer>(flags.address, flags.http_port);
  const int http_port = listener->port();
  const CoordinatorOptions options{.data_root = data_root,
                                   .root_id = root.id(),
                                   .http_url = concat("http://", flags.address, ":", http_port, "/"),
                                   .lease = milliseconds(flags.lease_seconds),
                                   .heartbeat = milliseconds(flags.heartbeat_seconds),
                                   .retry_backoff = milliseconds(flags.retry_backoff_seconds),
                                   .quarantine = milliseconds(flags.quarantine_seconds),
                                   .input_grace = milliseconds(flags.input_grace_seconds)};
  Coordinator coordinator(
      options, clock, store,
      {.lease_expired = [&](const std::string& reason) { metrics.lease_expired(reason); },
       .fenced = [&] { metrics.fenced(); },
       .restarted = [&](const std::string& job, const std::string& reason) { metrics.restarted(job, reason); },
       .finished = [&](const std::string& kind, const std::string& outcome) { metrics.finished(kind, outcome); },
       .changed = [&] { long_polls.notify(); }});
  const RpcParts parts{coordinator, store, long_polls, metrics};
  JobServiceAdapter jobs(parts);
  WorkerServiceAdapter workers(parts);
  Reporter reporter(coordinator, data_root);
  const std::unique_ptr<HttpServer> http = std::move(listener);  // from here on: it ends before what its pages read
  int port = 0;
  const std::unique_ptr<grpc::Server> server = start_server(flags, jobs, workers, port);
  add_pages(*http, coordinator, page, metrics, flags.store);
  http->start();
  root.announce(name_of(flags, port));
  log_info(concat("event=serving grpc=", flags.address, ":", port, " http=", options.http_url, " store=", flags.store,
                  " data_root=", data_root.string()));

  const auto tick = std::min<std::chrono::milliseconds>(options.lease / 10, std::chrono::milliseconds(500));
  while (stop_signal == 0) {
    std::this_thread::sleep_for(tick);
    coordinator.tick();
  }
  log_info(concat("event=stopping signal=", stop_signal.load()));
  server->GetHealthCheckService()->SetServingStatus(false);
  long_polls.close();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  return ExitCode::kDone;
}

ExitCode run(int argc, char** argv) {
  Flags flags;
  CLI::App app("moe-coordinator: schedules pipelines on gangs of moe-worker", "moe-coordinator");
  app.footer(kFooter);
  app.add_option("--data-root", flags.data_root,
                 "Folder on shared storage where all results lie; the same on the workers. Made if only its last "
                 "component is missing")
      ->required();
  app.add_option("--store", flags.store, "SQLite file, on a local disk, whose folder is made in the same way")
      ->capture_default_str();
  app.add_option("--address", flags.address, "Address to listen on; loopback, since the connection is plain text")
      ->capture_default_str();
  app.add_option("--port", flags.port, "gRPC port; 0 takes a free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app.add_option("--http-port", flags.http_port,
                 "Port of the status page, /metrics, /sd/workers, /healthz, /readyz; 0 takes a free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app.add_option("--lease", flags.lease_seconds, "Seconds without a heartbeat after which a gang loses its job")
      ->capture_default_str()
      ->check(CLI::Range(0.2, 3600.0));
  app.add_option("--heartbeat", flags.heartbeat_seconds, "Seconds between heartbeats")
      ->capture_default_str()
      ->check(CLI::Range(0.05, 600.0));
  app.add_option("--retry-backoff", flags.retry_backoff_seconds,
                 "Seconds before a second failed attempt in a row is followed by another; doubles")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("--quarantine", flags.quarantine_seconds,
                 "Seconds without jobs for a gang that failed two of them which other gangs can run")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 604800.0));
  app.add_option("--input-grace", flags.input_grace_seconds,
                 "Seconds that a job waits for another gang if neither the one that is there nor this machine sees "
                 "what it reads")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ExitCode::kDone : ExitCode::kUsage;
  }
  return serve(flags);
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", 0);  // our own messages say it
  moe::StandardOutput output;
  try {
    moe::require_utf8_arguments(argc, argv);
    const moe::ExitCode code = moe::run(argc, argv);
    output.finish();
    return static_cast<int>(code);
  } catch (const std::exception& error) {
    std::cerr << "moe-coordinator: " << moe::message_of(error) << std::endl;
    return static_cast<int>(moe::exit_code_for(error));
  }
}
