#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <future>
#include <iostream>

#include "common/data_root.h"
#include "common/error.h"
#include "coordinator/coordinator_fixture.h"
#include "coordinator/server_process.h"
#include "metrics/http_client.h"
#include "testing/subprocess.h"

// The program: what it serves, what it refuses to start with, how it stops.
namespace moe {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::coordinator_path;
using ::testing::HasSubstr;
using testing::http_get;
using testing::one_stage;
using testing::ProcessResult;
using testing::run_process;
using testing::ServerProcess;
using testing::TempDir;

v1::SubmitResponse submit(v1::JobService::Stub& jobs, const std::string& request_id) {
  v1::SubmitRequest request;
  request.set_request_id(request_id);
  *request.mutable_spec() = one_stage();
  v1::SubmitResponse response;
  grpc::ClientContext context;
  const grpc::Status status = jobs.Submit(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

TEST(CoordinatorProcessTest, ServesCallsAndPages) {
  const TempDir folder;
  ServerProcess server(folder.path());
  const auto jobs = server.jobs();
  const std::string id = submit(*jobs, "r1").pipeline_id();
  v1::ServerInfo info;
  grpc::ClientContext context;
  ASSERT_TRUE(jobs->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.queued_jobs(), 1);
  EXPECT_EQ(info.http_url(), concat("http://127.0.0.1:", server.http_port(), "/"));
  EXPECT_EQ(info.data_root(), (folder / "data").string());

  EXPECT_EQ(http_get(server.http_port(), "/healthz").status, 200);
  EXPECT_EQ(http_get(server.http_port(), "/readyz").status, 200);
  EXPECT_THAT(http_get(server.http_port(), "/").body, AllOf(HasSubstr("<html"), HasSubstr(id)));
  EXPECT_THAT(http_get(server.http_port(), "/metrics").body,
              AllOf(HasSubstr("moe_job_state"), HasSubstr(id), HasSubstr("method=\"Submit\"")));
  EXPECT_EQ(http_get(server.http_port(), "/sd/workers").body, "[]");
}

TEST(CoordinatorProcessTest, MistakesAreNamedAndHaveTheirExitCode) {
  const TempDir folder;
  ServerProcess server(folder.path());
  std::ofstream(folder / "text.db") << std::string(5000, 'x');
  std::ofstream(folder / "file") << "x";
  const std::string other = folder / "other.db", root = folder / "data", other_root = folder / "other-data";
  struct Row {
    std::vector<std::string> arguments;
    int exit_code;
    std::vector<std::string> says;
  };
  const std::vector<std::string> free_ports{"--port", "0", "--http-port", "0"};
  const Row table[] = {
      {{"--data-root", other_root, "--store", other, "--port", std::to_string(server.port()), "--http-port", "0"},
       64,
       {concat("127.0.0.1:", server.port()), "the port is in use", "--port"}},
      {{"--data-root", other_root, "--store", other, "--port", "0", "--http-port", std::to_string(server.http_port())},
       64,
       {std::to_string(server.http_port()), "in use"}},
      {{"--data-root", root, "--store", folder / "moe.db", "--port", "0", "--http-port", "0"},
       65,
       {"moe.db", "in use by another moe-coordinator", "--store"}},
      {{"--data-root", root, "--store", folder / "text.db", "--port", "0", "--http-port", "0"},
       65,
       {"text.db", "not a database"}},
      {{"--store", other, "--port", "0", "--http-port", "0"}, 64, {"--data-root is required"}},
      {{"--data-root", root, "--store", other, "--address", "0.0.0.0"},
       64,
       {"--address 0.0.0.0", "loopback only", "ssh tunnel"}},
      {{"--data-root", root, "--store", other, "--lease", "5", "--heartbeat", "3"},
       64,
       {"--heartbeat 3 s must be at most half of --lease 5 s"}},
      {{"--data-root", root, "--store", other, "--prot", "1"}, 64, {"--prot"}},
      {{"--data-root", root, "--store", other, "--port", "70000"}, 64, {"--port"}},
      {{"--data-root", folder / "file" / "below", "--store", folder / "new.db", "--port", "0", "--http-port", "0"},
       65,
       {"file/below", "file is not a folder"}},
      {{"--data-root", folder / "not" / "mounted", "--store", folder / "new.db", "--port", "0", "--http-port", "0"},
       65,
       {"--data-root", "not is not there"}},
      {{"--data-root", other_root, "--store", folder / "not" / "mounted" / "new.db", "--port", "0", "--http-port", "0"},
       65,
       {"--store", "not is not there"}},
      {{"--data-root", root, "--store", folder / "new.db", "--port", "0", "--http-port", "0"},
       65,
       {root, "in use by another moe-coordinator", concat("process ", server.process().pid()),
        concat("127.0.0.1:", server.port()), "give another --data-root"}},
  };
  for (const Row& row : table) {
    std::vector<std::string> command{"timeout", "20", coordinator_path()};
    command.insert(command.end(), row.arguments.begin(), row.arguments.end());
    const auto started = std::chrono::steady_clock::now();
    const ProcessResult result = run_process(command);
    EXPECT_EQ(result.exit_code, row.exit_code) << result.err << result.out;
    for (const std::string& words : row.says) EXPECT_THAT(result.err + result.out, HasSubstr(words));
    EXPECT_LT(std::chrono::steady_clock::now() - started, 10s);
  }
  EXPECT_EQ(run_process({coordinator_path(), "--help"}).exit_code, 0);
  submit(*server.jobs(), "still-there");  // and the one that serves did not mind
}

TEST(CoordinatorProcessTest, AStoreServesItsOwnDataRootOnly) {
  namespace fs = std::filesystem;
  const TempDir folder;
  const auto stop = [](ServerProcess& server) {
    server.process().signal(SIGTERM);
    EXPECT_EQ(server.process().wait(5s), 0);
  };
  {
    ServerProcess server(folder.path());
    stop(server);
  }
  const std::string id = read_root_id(folder / "data").value();
  const auto refused = [&](const std::string& store, const std::string& why) {
    const ProcessResult result = run_process({"timeout", "20", coordinator_path(), "--data-root", folder / "data",
                                              "--store", folder / store, "--port", "0", "--http-port", "0"});
    EXPECT_EQ(result.exit_code, 65) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr(id), HasSubstr((folder / "data/.moe-root-id").string() + why),
                                  HasSubstr("mount the storage")));
  };
  fs::rename(folder / "data", folder / "unmounted");
  refused("moe.db", " is not there");
  EXPECT_FALSE(fs::exists(folder / "data")) << "nothing is made where the storage should be";
  fs::create_directories(folder / "data");
  refused("moe.db", " is missing");
  const std::string other = create_root_id(folder / "data");
  refused("moe.db", " says " + other);
  fs::remove_all(folder / "data");
  fs::rename(folder / "unmounted", folder / "data");
  {
    ServerProcess server(folder.path());  // nothing was lost
    stop(server);
  }
  fs::remove(folder / "moe.db");
  {
    ServerProcess server(folder.path());  // a new store takes the root as it is
    stop(server);
  }
  EXPECT_EQ(read_root_id(folder / "data"), id);
}

TEST(CoordinatorProcessTest, StopsInOrderWhileCallsWait) {
  const TempDir folder;
  for (const int signal : {SIGTERM, SIGINT}) {
    ServerProcess server(folder.path());
    const auto jobs = server.jobs();
    const std::string id = submit(*jobs, concat("before ", signal)).pipeline_id();
    std::vector<std::future<grpc::Status>> waiting;
    for (int i = 0; i < 10; ++i) {
      waiting.push_back(std::async(std::launch::async, [&] {
        v1::WatchRequest request;
        request.set_after_revision(1'000'000);
        request.set_wait_seconds(30);
        v1::WatchResponse response;
        grpc::ClientContext context;
        return jobs->Watch(&context, request, &response);
      }));
    }
    waiting[0].wait_for(300ms);
    const auto started = std::chrono::steady_clock::now();
    server.process().signal(signal);
    EXPECT_EQ(server.process().wait(5s), 0) << server.process().output();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    int answered = 0;
    for (auto& call : waiting) answered += call.get().ok();
    std::cout << "signal " << signal << ": exit 0 after " << seconds << " s, " << answered
              << " of 10 waiting calls answered\n";
    EXPECT_THAT(server.process().output(), HasSubstr(concat("event=stopping signal=", signal)));
    EXPECT_EQ(answered, 10);
  }
}

}  // namespace
}  // namespace moe
