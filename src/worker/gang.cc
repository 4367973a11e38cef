#include "worker/gang.h"

#include <torch/headeronly/version.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/agreement.h"
#include "common/data_root.h"
#include "common/error.h"
#include "common/exit_code.h"
#include "common/log.h"
#include "common/version.h"
#include "metrics/http_server.h"
#include "metrics/worker_metrics.h"
#include "worker/gang_leader.h"
#include "worker/gang_member.h"
#include "worker/known_names.h"
#include "worker/preflight.h"

namespace moe {
namespace {

using nlohmann::json;

/// Collectives that metrics tell apart, by the first word of their name.
std::string kind_of_operation(std::string_view op) {
  if (op.starts_with("dispatch")) return "dispatch";
  if (op.starts_with("combine")) return "combine";
  if (op.find("gradients") != std::string_view::npos) return "grad_sync";
  return "";
}

v1::Gang describe_gang(const std::vector<std::string>& ranks, const std::string& device) {
  v1::Gang gang;
  gang.set_id(random_hex(8));
  if (const char* launcher = std::getenv("MOE_LAUNCHER_ID")) gang.set_launcher_id(excerpt(launcher));
  if (const char* code = std::getenv("MOE_LAUNCHER_LAST_EXIT")) gang.set_previous_exit_code(std::atoi(code));
  gang.set_device(device);
  gang.set_version(kVersion);
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const json told = json::parse(ranks[rank]);
    v1::GangRank* added = gang.add_ranks();
    added->set_rank(static_cast<int>(rank));
    added->set_node(told["node"]);
    added->set_pid(told["pid"]);
    added->set_metrics_endpoint(told["metrics"]);
  }
  for (const auto& [list, names] : known_names())
    (*gang.mutable_capabilities()->mutable_known())[list].mutable_names()->Add(names.begin(), names.end());
  return gang;
}

/// The id of the data root that this rank sees, or why that cannot be told: the others learn it before anybody ends of
/// it.
json root_of(const std::filesystem::path& data_root) {
  json root = {{"id", ""}, {"error", ""}, {"code", 0}};
  try {
    root["id"] = read_root_id(data_root).value_or("");
  } catch (const Error& error) {
    root["error"] = error.what();
    root["code"] = static_cast<int>(exit_code_for(error));
  }
  return root;
}

/// All ranks have heard the same, so all of them throw.
void compare_roots(const std::vector<std::string>& ranks, const std::filesystem::path& data_root) {
  for (const std::string& rank : ranks) {
    const json told = json::parse(rank);
    const std::string error = told["root"]["error"];
    if (error.empty()) continue;
    const std::string message = concat(error, " (on ", told["node"].get<std::string>(), ")");
    if (told["root"]["code"] == static_cast<int>(ExitCode::kBadInput)) throw_agreed<InvalidArgument>(message);
    throw_agreed<StorageError>(message);
  }
  const std::string expected = json::parse(ranks[0])["root"]["id"];
  if (expected.empty()) return;  // no coordinator has been there yet, or none of ours: the leader will be told
  for (size_t rank = 1; rank < ranks.size(); ++rank) {
    const json told = json::parse(ranks[rank]);
    const std::string found = told["root"]["id"];
    if (found == expected) continue;
    throw_agreed<InvalidArgument>(concat("--data-root ", data_root.string(), " is the data root ", expected, " on ",
                                         json::parse(ranks[0])["node"].get<std::string>(), " (rank 0) and ",
                                         found.empty() ? "has no .moe-root-id" : "is " + found, " on ",
                                         told["node"].get<std::string>(), " (rank ", rank,
                                         "): mount the same storage on every node"));
  }
}

}  // namespace

ExitCode serve(const GangSettings& settings, Communicator& world) {
  const bool is_leader = world.rank() == 0;
  MetricsPage page;
  WorkerMetrics metrics(page, is_leader);
  metrics.build_info({.version = kVersion, .git_sha = "", .torch = TORCH_VERSION, .nccl = settings.nccl});
  metrics.worker_info(settings.gpu, 0, 0);
  HttpServer http(settings.metrics_address, 0);
  http.get("/metrics", [&page](const HttpRequest&) { return page.response(); });
  http.start();
  const std::shared_ptr<OperationLog> operations = world.operations();
  operations->observe([&metrics](std::string_view op, double seconds, int64_t bytes) {
    if (const std::string kind = kind_of_operation(op); !kind.empty()) metrics.comm(kind, seconds, bytes);
  });

  const json mine = {{"node", node_name()},
                     {"pid", ::getpid()},
                     {"metrics", concat(settings.metrics_address, ":", http.port())},
                     {"root", root_of(settings.data_root)}};
  const std::vector<std::string> all = world.all_gather_bytes(mine.dump(), "introduce ranks");
  std::set<std::string> nodes;
  for (const std::string& told : all) nodes.insert(json::parse(told)["node"]);
  compare_roots(all, settings.data_root);

  // Ranks on other nodes must reach the leader; the secret keeps others out.
  std::unique_ptr<GangControlServer> control;
  json meeting;
  if (is_leader) {
    const std::string secret = random_hex(16);
    control = std::make_unique<GangControlServer>(world.size(), nodes.size() == 1 ? "127.0.0.1" : "0.0.0.0", secret);
    meeting = {{"target", concat(nodes.size() == 1 ? "127.0.0.1" : node_name(), ":", control->port())},
               {"secret", secret}};
  }
  meeting = json::parse(world.broadcast_bytes(meeting.dump(), 0, "gang control address"));

  ExitCode code = ExitCode::kDone;
  if (is_leader) {
    code = GangLeader(settings, world, metrics, *control, describe_gang(all, settings.device)).run();
  } else {
    code = GangMember(settings, world, metrics, meeting["target"], meeting["secret"]).run();
  }
  operations->observe(nullptr);
  return code;
}

}  // namespace moe
