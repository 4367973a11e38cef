#include "service/cluster.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <stdexcept>

#include "common/file_io.h"
#include "testing/free_port.h"
#include "testing/paths.h"
#include "testing/process_file.h"

namespace moe::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::seconds;

std::string program(const char* name) {
  return build_dir() + "/bin/" + name;
}

}  // namespace

Cluster::Cluster(ClusterOptions options) : options_(options), port_(free_port()), http_port_(free_port()) {
  fs::create_directories(data_root());
  start_coordinator();
}

void Cluster::start_coordinator() {
  coordinator_ = std::make_unique<BackgroundProcess>(
      std::vector<std::string>{program("moe-coordinator"), "--data-root", data_root(), "--store", folder_ / "store.db",
                               "--port", std::to_string(port_), "--http-port", std::to_string(http_port_), "--lease",
                               std::to_string(options_.lease_seconds), "--heartbeat",
                               std::to_string(options_.heartbeat_seconds), "--retry-backoff",
                               std::to_string(options_.retry_backoff_seconds)},
      folder_ / ("coordinator-" + std::to_string(++starts_) + ".log"), std::map<std::string, std::string>{},
      source_dir());
  const bool serves = eventually(seconds(20), [this] {
    return coordinator_->output().find("event=serving") != std::string::npos || !coordinator_->is_running();
  });
  if (!serves || !coordinator_->is_running())
    throw std::runtime_error("moe-coordinator does not serve: " + coordinator_->output());
}

void Cluster::kill_coordinator() {
  coordinator_->signal(SIGKILL);
  coordinator_->wait(seconds(5));
}

std::unique_ptr<BackgroundProcess> Cluster::start_gang(int ranks, const std::string& name, bool restarting,
                                                       const std::string& coordinator) {
  std::vector<std::string> command{
      "bash", source_dir() + "/deploy/gang.sh", "--ranks", std::to_string(ranks), "--threads", "1"};
  if (!restarting) command.emplace_back("--once");
  for (const std::string& word : std::vector<std::string>{
           "--", options_.worker, "serve", "--coordinator", coordinator.empty() ? address() : coordinator,
           "--data-root", data_root(), "--orphan-limit", std::to_string(options_.orphan_seconds), "--hang-timeout",
           std::to_string(options_.hang_seconds)}) {
    command.push_back(word);
  }
  command.insert(command.end(), options_.serve_arguments.begin(), options_.serve_arguments.end());
  return std::make_unique<BackgroundProcess>(command, folder_ / ("gang-" + name + ".log"), options_.environment,
                                             source_dir());
}

std::vector<pid_t> Cluster::ranks_of(const BackgroundProcess& gang, int ranks, const std::string& worker) {
  std::vector<pid_t> by_rank(static_cast<size_t>(ranks), 0);
  int found = 0;
  for (const pid_t pid : descendants(gang.pid(), worker)) {
    const std::string environment = read_process_file(std::to_string(pid), "environ");
    const std::string key = "OMPI_COMM_WORLD_RANK=";
    const size_t at = environment.find(key);
    if (at == std::string::npos) continue;
    const int rank = std::stoi(environment.substr(at + key.size()));
    if (rank < ranks && by_rank[rank] == 0) {
      by_rank[rank] = pid;
      ++found;
    }
  }
  return found == ranks ? by_rank : std::vector<pid_t>{};
}

ProcessResult Cluster::moectl(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {program("moectl"), "--coordinator", address()});
  return run_process(arguments, {{"NO_COLOR", "1"}}, source_dir());
}

json Cluster::moectl_json(std::vector<std::string> arguments) const {
  arguments.insert(arguments.end(), {"-o", "json"});
  const ProcessResult result = moectl(std::move(arguments));
  if (result.exit_code != 0) throw std::runtime_error("moectl failed: " + result.err);
  return json::parse(result.out);
}

std::string Cluster::submit(const std::string& yaml, std::vector<std::string> arguments) {
  const fs::path file = folder_ / ("pipeline-" + std::to_string(++files_) + ".yaml");
  write_file_atomically(file, yaml);
  arguments.insert(arguments.begin(), {"submit", file});
  const ProcessResult result = moectl(std::move(arguments));
  if (result.exit_code != 0) throw std::runtime_error("submit failed: " + result.err);
  return result.out.substr(0, result.out.find('\n'));
}

std::string Cluster::wait_for(const std::string& pipeline, int timeout_seconds) {
  const ProcessResult result =
      moectl({"wait", pipeline, "--for", "ended", "--timeout", std::to_string(timeout_seconds)});
  if (result.exit_code == 6) return "NOT ENDED: " + result.err;
  return moectl_json({"describe", pipeline}).value("phase", "?");
}

bool reaches_step(const Cluster& cluster, const std::string& job, int64_t step, std::chrono::seconds within) {
  return eventually(within, [&] {
    const nlohmann::json shown = cluster.job(job);
    return shown["state"] == "JOB_STATE_RUNNING" &&
           std::stoll(shown["progress"].value("step", std::string("0"))) >= step;
  });
}

std::string small_pipeline(const std::string& name, int steps, int ranks, int seed, bool evaluates) {
  std::string text = "apiVersion: moe/v1\nkind: Pipeline\nname: " + name +
                     "\ninputs: {dense: {path: examples/base-7m}}\ndefaults: {gang: {ranks: " + std::to_string(ranks) +
                     ", expert_parallel: " + std::to_string(ranks) + "}, seed: " + std::to_string(seed) + R"(}
stages:
  - name: convert
    convert: {input: dense, ffn: {method: independent_random, experts: 8, top_k: 2}, scale: {mode: energy}, router: {init: kaiming}}
  - name: train
    train:
      input: convert.model
      data: [{path: examples/data/maths.train.jsonl, max_documents: 300}]
      sequence_length: 128
      micro_batch_rows: 4
      checkpoint_every: 5
      steps: )" + std::to_string(steps) +
                     "\n";
  if (evaluates) {
    text += R"(  - name: evaluate
    evaluate: {input: train.model, baseline: dense, max_tokens: 1000, data: [{path: examples/data/maths.valid.jsonl}]}
  - gate: {name: sane, metric: evaluate.loss_ratio_to_baseline, op: "<=", value: 20}
)";
  }
  return text;
}

}  // namespace moe::testing
