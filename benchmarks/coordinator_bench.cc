// The coordinator in its process: durable submits over gRPC against the disk's own fdatasync rate, pages of a long
// list, and the scheduler's choice in a long queue. [--folder DIR] (a local disk; default: the temporary folder)
// [--seconds S per measurement]
// [--rounds N]
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/error.h"
#include "coordinator/services.h"
#include "help.h"
#include "metrics/metrics.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kInFlight = 64;
constexpr int kListedJobs = 1000;
constexpr int kPageSize = 500;  // the largest there is
constexpr int kQueuedJobs = 10'000;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

v1::PipelineSpec one_job() {
  v1::PipelineSpec spec;
  spec.set_api_version("moe/v1");
  spec.set_kind("Pipeline");
  spec.set_name("bench");
  v1::Stage& stage = *spec.add_stages();
  stage.set_name("work");
  stage.mutable_gang()->set_ranks(2);
  stage.mutable_evaluate()->set_input("./model");
  stage.mutable_evaluate()->add_data()->set_path("held_out.jsonl");
  return spec;
}

/// Appends of 4 KiB, each made durable, one after another: what a disk gives a program that batches nothing.
double fdatasyncs_per_second(const std::filesystem::path& folder, double seconds) {
  const std::string file = folder / "sync";
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (descriptor < 0) throw StorageError("cannot write " + file);
  const std::string block(4096, 'x');
  int count = 0;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    if (write(descriptor, block.data(), block.size()) != 4096 || fdatasync(descriptor) != 0)
      throw StorageError("cannot sync " + file);
    ++count;
  }
  const double rate = count / seconds_since(start);
  close(descriptor);
  std::filesystem::remove(file);
  return rate;
}

/// The coordinator and its services as moe-coordinator puts them together, with a client.
struct Server {
  explicit Server(const std::filesystem::path& folder)
      : store(folder / "moe.db"),
        coordinator({.data_root = folder, .http_url = ""}, clock, store, {.changed = [this] { long_polls.notify(); }}),
        metrics(page),
        jobs({coordinator, store, long_polls, metrics}) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&jobs);
    grpc_server = builder.BuildAndStart();
    stub = v1::JobService::NewStub(grpc::CreateChannel(concat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  ~Server() {
    long_polls.close();
    grpc_server->Shutdown();
  }

  SystemClock clock;
  LongPolls long_polls;
  Store store;
  Coordinator coordinator;
  MetricsPage page;
  CoordinatorMetrics metrics;
  JobServiceAdapter jobs;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<v1::JobService::Stub> stub;
};

/// Keeps `kInFlight` submits going: each answer starts the next.
class Submitter {
 public:
  Submitter(v1::JobService::Stub& stub, std::string prefix) : stub_(stub), prefix_(std::move(prefix)) {}

  /// Submits per second; latencies in `seconds`.
  double run(double seconds, std::vector<double>& latencies, int most = 1 << 30) {
    end_ = Clock::now() + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
    most_ = most;
    const auto start = Clock::now();
    running_ = kInFlight;
    for (int i = 0; i < kInFlight; ++i) next();
    done_.get_future().wait();
    const double elapsed = seconds_since(start);
    latencies = std::move(latencies_);
    if (failed_ > 0) throw Internal(concat(failed_.load(), " submits failed"));
    return static_cast<double>(latencies.size()) / elapsed;
  }

 private:
  struct Call {
    grpc::ClientContext context;
    v1::SubmitRequest request;
    v1::SubmitResponse response;
    Clock::time_point start;
  };

  void next() {
    const int number = ++started_;
    if (Clock::now() >= end_ || number > most_) {
      if (--running_ == 0) done_.set_value();
      return;
    }
    auto call = std::make_shared<Call>();
    call->request.set_request_id(concat(prefix_, number));
    *call->request.mutable_spec() = spec_;
    call->start = Clock::now();
    stub_.async()->Submit(&call->context, &call->request, &call->response, [this, call](const grpc::Status& status) {
      failed_ += !status.ok();
      {
        const std::lock_guard lock(mutex_);
        latencies_.push_back(seconds_since(call->start));
      }
      next();
    });
  }

  v1::JobService::Stub& stub_;
  const std::string prefix_;
  const v1::PipelineSpec spec_ = one_job();
  Clock::time_point end_;
  int most_ = 0;
  std::atomic<int> started_{0}, running_{0}, failed_{0};
  std::mutex mutex_;
  std::vector<double> latencies_;
  std::promise<void> done_;
};

/// Median, p90 of `repetitions` of a call, as a table row.
template <typename Call>
void row(const std::string& name, double aim_ms, int repetitions, Call call) {
  call();
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = Clock::now();
    call();
    times.push_back(seconds_since(start) * 1e3);
  }
  const double median = quantile(times, 0.5);
  std::printf("| %s | %.3f | %.3f | %g | %.1f |\n", name.c_str(), median, quantile(times, 0.9), aim_ms,
              aim_ms / median);
  std::fflush(stdout);
}

void submits(const std::filesystem::path& folder, double seconds, int rounds) {
  std::printf(
      "\n| round | fdatasync/s | submits/s, %d in flight | ratio | submit p50 ms | p99 ms "
      "|\n|---|---|---|---|---|---|\n",
      kInFlight);
  std::vector<double> ratios;
  for (int round = 1; round <= rounds; ++round) {
    const std::filesystem::path place = folder / concat("round-", round);
    std::filesystem::create_directories(place);
    Server server(place);
    const double before = fdatasyncs_per_second(place, seconds / 2);
    std::vector<double> latencies;
    Submitter warm_up(*server.stub, "warm");
    warm_up.run(0.3, latencies);
    Submitter submitter(*server.stub, "r");
    const double rate = submitter.run(seconds, latencies);
    const double syncs = (before + fdatasyncs_per_second(place, seconds / 2)) / 2;
    ratios.push_back(rate / syncs);
    std::printf("| %d | %.0f | %.0f | %.1f | %.1f | %.1f |\n", round, syncs, rate, rate / syncs,
                quantile(latencies, 0.5) * 1e3, quantile(latencies, 0.99) * 1e3);
    std::fflush(stdout);
  }
  std::printf("\nmedian ratio %.1f (aim: 5)\n", quantile(ratios, 0.5));
}

void lists(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  Server server(folder);
  std::vector<double> latencies;
  Submitter(*server.stub, "list").run(600, latencies, kListedJobs);
  std::string job_id, next;
  const auto list = [&](const std::string& token) {
    v1::ListRequest request;
    request.set_page_size(kPageSize);
    request.set_page_token(token);
    v1::ListJobsResponse response;
    grpc::ClientContext context;
    if (!server.stub->ListJobs(&context, request, &response).ok() || response.jobs_size() != kPageSize)
      throw Internal("a page is not whole");
    job_id = response.jobs(0).id();
    next = response.next_page_token();
  };
  const auto describe = [&] {
    v1::GetRequest request;
    request.set_id(job_id);
    v1::Job job;
    grpc::ClientContext context;
    if (!server.stub->GetJob(&context, request, &job).ok() || job.pending_explanation().empty())
      throw Internal("a job cannot be described");
  };
  row(concat("list: first ", kPageSize, " of ", kListedJobs, " jobs"), 50, 50, [&] { list(""); });
  const std::string second = next;
  row(concat("list: the other ", kPageSize), 50, 50, [&] { list(second); });
  row("describe one job, with its pending_explanation", 50, 200, describe);
  row(concat("list a page of ", kPageSize, " and describe one of it"), 50, 50, [&] {
    list("");
    describe();
  });
}

void picks() {
  std::set<QueuedJob> queue;
  for (int i = 0; i < kQueuedJobs; ++i)
    queue.insert({i, concat("bench-", i, "-work"), {i + 1 == kQueuedJobs ? 4 : 2, 0, "cpu"}, 0});
  const auto pick_for = [&](int ranks, bool expected) {
    return [&queue, ranks, expected] {
      if ((pick(queue, {"g", ranks, "cpu", true, "g", false}, {}, 1) != nullptr) != expected)
        throw Internal("a wrong choice");
    };
  };
  const std::string among = concat("pick among ", kQueuedJobs, " queued jobs: ");
  row(among + "the first fits", 1, 2000, pick_for(2, true));
  row(among + "only the last fits", 1, 500, pick_for(4, true));
  row(among + "none fits", 1, 500, pick_for(8, false));
  const QueuedJob last = *queue.rbegin();
  row("explain the last of them, with 3 gangs", 1, 200, [&] {
    if (explain(queue, last, {{"a", 2, "cpu", true}, {"b", 4, "cpu", true}, {"c", 8, "cpu", false}}, 1).empty())
      throw Internal("no explanation");
  });
}

int run(int argc, char** argv) {
  std::filesystem::path folder = std::filesystem::temp_directory_path();
  double seconds = 3;
  int rounds = 5;
  if (is_help_wanted(argc, argv)) {
    std::printf(
        "The coordinator: durable submits against the disk's own rate, lists and picks\n"
        "usage: %s [--folder PATH] [--seconds S] [--rounds N]\n"
        "  --folder PATH  where the databases are made; on the disk to be measured (the system's temporary folder)\n"
        "  --seconds S    seconds of each measurement of submits (3)\n"
        "  --rounds N     how often each is repeated (5)\n",
        argv[0]);
    return 0;
  }
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag != "--folder" && flag != "--seconds" && flag != "--rounds") {
      throw UsageError(concat("unknown flag ", flag, "; there are --folder, --seconds and --rounds"));
    }
    if (i + 1 == argc) throw UsageError(flag + " needs a value");
    const std::string value = argv[i + 1];
    try {
      if (flag == "--folder") folder = value;
      if (flag == "--seconds") seconds = std::stod(value);
      if (flag == "--rounds") rounds = std::stoi(value);
    } catch (const std::logic_error&) {
      throw UsageError(concat(flag, " ", value, " is not a number"));
    }
  }
  folder /= concat("moe-coordinator-bench-", getpid());
  std::filesystem::create_directories(folder);
  submits(folder, seconds, rounds);
  std::printf("\n| case | median ms | p90 ms | aim ms | aim/median |\n|---|---|---|---|---|\n");
  lists(folder / "lists");
  picks();
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  try {
    return moe::run(argc, argv);
  } catch (const moe::UsageError& error) {
    std::fprintf(stderr, "moe_coordinator_bench: %s\n", error.what());
    return 64;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "moe_coordinator_bench: %s\n", error.what());
    return 1;
  }
}
