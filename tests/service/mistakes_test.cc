// What users do wrong, and what goes wrong around them: each a clear message and the exit code that the documents
// promise.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>

#include "common/file_io.h"
#include "service/web.h"
#include "testing/free_port.h"
#include "testing/paths.h"

namespace moe {
namespace {

using nlohmann::json;
using std::chrono::seconds;
using ::testing::AllOf;
using testing::BackgroundProcess;
using testing::Cluster;
using testing::eventually;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProcessResult;

constexpr int kRanks = 2;

std::string program(const char* name) {
  return testing::build_dir() + "/bin/" + name;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from << " is not in\n" << text;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

class MistakesTest : public ::testing::Test {
 protected:
  /// A second coordinator, which shall not come up.
  ProcessResult start_another(const std::string& store, const std::string& port, const std::string& http_port,
                              const std::string& root = "") const {
    return testing::run_process({"timeout", "20", program("moe-coordinator"), "--data-root",
                                 root.empty() ? cluster_.data_root() : cluster_.folder() / root, "--store",
                                 cluster_.folder() / store, "--port", port, "--http-port", http_port});
  }

  std::string write(const std::string& name, const std::string& text) const {
    write_file_atomically(cluster_.folder() / name, text);
    return cluster_.folder() / name;
  }

  /// moectl beside the test, its output in NAME.out and NAME.err.
  std::unique_ptr<BackgroundProcess> background_moectl(const std::string& name, const std::string& arguments) const {
    const std::string file = (cluster_.folder() / name).string();
    return std::make_unique<BackgroundProcess>(
        std::vector<std::string>{"bash", "-c",
                                 "exec " + program("moectl") + " --coordinator " + cluster_.address() + " " +
                                     arguments + " >" + file + ".out 2>" + file + ".err"},
        cluster_.folder() / (name + ".log"));
  }
  /// "" before the shell has made the file.
  std::string told(const std::string& name) const {
    const std::filesystem::path file = cluster_.folder() / name;
    return std::filesystem::exists(file) ? read_file(file) : "";
  }

  void expect_nothing_stored() const { EXPECT_EQ(cluster_.moectl_json({"get", "pipelines"})["pipelines"].size(), 0U); }

  Cluster cluster_{{.lease_seconds = 30}};
};

TEST_F(MistakesTest, APortInUseEndsTheCoordinatorWith64) {
  const std::string port = cluster_.address().substr(cluster_.address().find(':') + 1);
  const std::string http = cluster_.http().substr(cluster_.http().rfind(':') + 1);
  const ProcessResult grpc = start_another("other.db", port, "0", "other");
  EXPECT_EQ(grpc.exit_code, 64);
  EXPECT_THAT(grpc.err,
              AllOf(HasSubstr("cannot listen on 127.0.0.1:" + port), HasSubstr("in use"), HasSubstr("--port")));
  const ProcessResult pages = start_another("other.db", "0", http, "other");
  EXPECT_EQ(pages.exit_code, 64);
  EXPECT_THAT(pages.err, AllOf(HasSubstr("cannot listen on 127.0.0.1:" + http), HasSubstr("in use")));
  EXPECT_EQ(cluster_.moectl({"health"}).exit_code, 0) << "the first one is not disturbed";
}

TEST_F(MistakesTest, TwoCoordinatorsOnOneStoreEndWith65) {
  const ProcessResult result = start_another("store.db", "0", "0");
  EXPECT_EQ(result.exit_code, 65);
  EXPECT_THAT(result.err, AllOf(HasSubstr((cluster_.folder() / "store.db").string()),
                                HasSubstr("in use by another moe-coordinator"), HasSubstr("--store")));
  EXPECT_EQ(cluster_.moectl({"health"}).exit_code, 0);
}

/// Paths below the root go into messages, records and pages.
TEST_F(MistakesTest, ADataRootThatIsNotUtf8EndsWith64) {
  const std::filesystem::path latin = cluster_.folder() / "caf\xE9";
  std::filesystem::create_directory(latin);
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{program("moe-coordinator"), "--store", cluster_.folder() / "other.db", "--port", "0",
                                 "--http-port", "0", "--data-root", "root"},
        {testing::worker_path(), "serve", "--coordinator", cluster_.address(), "--data-root", "root"}}) {
    std::vector<std::string> limited{"timeout", "20"};
    limited.insert(limited.end(), command.begin(), command.end());
    const ProcessResult result = testing::run_process(limited, {}, latin.string());
    EXPECT_EQ(result.exit_code, 64) << command[0];
    EXPECT_THAT(result.err, AllOf(HasSubstr("caf\\xE9/root is not UTF-8"), Not(HasSubstr("\xE9")))) << command[0];
  }
}

/// Storage that does not answer is not storage without an id.
TEST_F(MistakesTest, ADataRootThatCannotBeLookedAtEndsWith74) {
  const std::filesystem::path root = cluster_.folder() / "odd";
  std::filesystem::create_directory(root);
  std::filesystem::create_symlink(".moe-root-id", root / ".moe-root-id");  // it leads to itself: no user may follow it
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{program("moe-coordinator"), "--store", cluster_.folder() / "other.db", "--port", "0",
                                 "--http-port", "0", "--data-root", root},
        {testing::worker_path(), "serve", "--coordinator", cluster_.address(), "--data-root", root}}) {
    std::vector<std::string> limited{"timeout", "20"};
    limited.insert(limited.end(), command.begin(), command.end());
    const ProcessResult result = testing::run_process(limited);
    EXPECT_EQ(result.exit_code, 74) << command[0] << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("cannot read " + (root / ".moe-root-id").string()),
                                  HasSubstr("Too many levels of symbolic links")))
        << command[0];
  }
}

TEST_F(MistakesTest, NoCoordinator) {
  const std::string nobody = "127.0.0.1:" + std::to_string(testing::free_port());
  // Gangs wait 20 s for one that is just being started; a whole gang and a single rank, at the same time.
  const auto begun = std::chrono::steady_clock::now();
  const auto gang = cluster_.start_gang(kRanks, "lost", /*restarting=*/false, nobody);
  BackgroundProcess alone(
      {testing::worker_path(), "serve", "--coordinator", nobody, "--data-root", cluster_.data_root()},
      cluster_.folder() / "alone.log");
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"health"}, {"get", "pipelines"}, {"wait", "some-pipeline"}, {"logs", "x", "-f"}}) {
    std::vector<std::string> command{program("moectl"), "--coordinator", nobody};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const ProcessResult result = testing::run_process(command);
    EXPECT_EQ(result.exit_code, 5) << arguments[0];
    EXPECT_THAT(result.err,
                AllOf(HasSubstr("no coordinator at " + nobody), HasSubstr("start one with moe-coordinator")))
        << arguments[0];
    EXPECT_EQ(result.out, "");
  }
  for (BackgroundProcess* worker : {gang.get(), &alone}) {
    const std::optional<int> code = worker->wait(seconds(45));
    ASSERT_TRUE(code.has_value()) << worker->output();
    EXPECT_EQ(*code, 69) << worker->output();
    EXPECT_THAT(worker->output(), AllOf(HasSubstr("no coordinator at " + nobody), HasSubstr("start moe-coordinator")));
  }
  const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  std::cout << "workers gave up after " << waited << " s\n";
  EXPECT_GT(waited, 19);
}

TEST_F(MistakesTest, TheCoordinatorIsKilledDuringLogsFollow) {
  const auto gang = cluster_.start_gang(kRanks, "a");
  const std::string pipeline = cluster_.submit(testing::small_pipeline("followed", 30, kRanks));
  const std::string job = pipeline + "-train";
  ASSERT_TRUE(testing::reaches_step(cluster_, job, 3, seconds(60))) << gang->output();
  const auto impatient = background_moectl("impatient", "--outage 2 logs " + job + " -f");
  const auto patient = background_moectl("patient", "logs " + job + " -f");
  const auto has_read = [&](const char* name) {
    return eventually(seconds(10), [&] {
      return told(std::string(name) + ".out").find("event=attempt_started") != std::string::npos;
    });
  };
  ASSERT_TRUE(has_read("impatient"));
  ASSERT_TRUE(has_read("patient"));
  cluster_.kill_coordinator();
  EXPECT_EQ(impatient->wait(seconds(20)), 5) << told("impatient.err");
  EXPECT_THAT(told("impatient.err"), AllOf(HasSubstr("is away"), HasSubstr("no coordinator at " + cluster_.address())));
  EXPECT_TRUE(patient->is_running()) << told("patient.err");
  cluster_.start_coordinator();
  EXPECT_EQ(patient->wait(seconds(90)), 0) << told("patient.err") << gang->output();
  EXPECT_THAT(told("patient.err"), AllOf(HasSubstr("is away"), HasSubstr("is back"), HasSubstr("SUCCEEDED")));
  // Nothing lost, nothing twice: what was printed is the file.
  EXPECT_EQ(told("patient.out"), read_file(cluster_.data_root() / job / "attempts" / "0001" / "logs" / "gang.log"));
  EXPECT_EQ(cluster_.job(job)["attempt"], 1) << "the gang trained on";
}

TEST_F(MistakesTest, AnUnknownIdEndsWith3) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{{"describe", "no-such-job"},
                                                                                         {"logs", "no-such-job"},
                                                                                         {"wait", "no-such-job"},
                                                                                         {"metrics", "no-such-job"},
                                                                                         {"cancel", "no-such-job"},
                                                                                         {"pause", "no-such-job"},
                                                                                         {"retry", "no-such-job"},
                                                                                         {"approve", "no-such-job"}}) {
    const ProcessResult result = cluster_.moectl(arguments);
    EXPECT_EQ(result.exit_code, 3) << arguments[0] << ": " << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("'no-such-job'"), HasSubstr("moectl get"))) << arguments[0];
  }
}

TEST_F(MistakesTest, AMisspeltFieldIsNamedWithItsLine) {
  const std::string file = write(
      "misspelt.yaml", replaced(testing::small_pipeline("misspelt", 6, kRanks), "sequence_length", "sequence_lenght"));
  const ProcessResult result = cluster_.moectl({"submit", file});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(
      result.err,
      HasSubstr(
          file +
          ":13: stages.train.train.sequence_lenght: unknown key (sequence_lenght); did you mean 'sequence_length'?"));
  EXPECT_EQ(result.out, "");
  expect_nothing_stored();
}

TEST_F(MistakesTest, DryRunListsAllProblemsAtOnce) {
  // The names of methods are known to the coordinator once a gang has told it.
  const auto gang = cluster_.start_gang(kRanks, "a");
  ASSERT_TRUE(eventually(seconds(20), [&] { return testing::discovered_ranks(cluster_).size() == kRanks; }))
      << gang->output();
  std::string text = testing::small_pipeline("wrong", 6, kRanks, 11, /*evaluates=*/true);
  text = replaced(text, "top_k: 2", "top_k: 9");
  text = replaced(text, "independent_random", "independant_random");
  text = replaced(text, "steps: 6", "steps: many");
  text = replaced(text, "input: train.model", "input: trian.model");
  text = replaced(text, "metric: evaluate.loss_ratio_to_baseline", "metric: evaluate.beauty");
  const std::string file = write("wrong.yaml", text);
  const ProcessResult result = cluster_.moectl({"submit", file, "--dry-run"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("5 problems"),
                    HasSubstr(file + ":8: stages.convert.convert.ffn.top_k: top_k 9 is greater than experts 8"),
                    HasSubstr("independant_random"), HasSubstr("did you mean 'independent_random'"), HasSubstr("many"),
                    HasSubstr("trian.model"), HasSubstr("evaluate.beauty")));
  expect_nothing_stored();
  const ProcessResult good =
      cluster_.moectl({"submit", write("good.yaml", testing::small_pipeline("good", 6, kRanks)), "--dry-run"});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_THAT(good.out, AllOf(HasSubstr("valid"), HasSubstr("independent_random, 8 experts, top-2"),
                              HasSubstr("6 steps on 1 files")));
  expect_nothing_stored();
}

TEST_F(MistakesTest, ADataPathThatIsNotOnTheWorkerFailsTheJobForGood) {
  const auto gang = cluster_.start_gang(kRanks, "a");
  // The coordinator's machine has that folder, so that it can tell that nobody need wait for the file.
  std::filesystem::create_directories(cluster_.folder() / "nowhere" / "else");
  const std::string missing = (cluster_.folder() / "nowhere" / "maths.jsonl").string();
  const std::string pipeline = cluster_.submit(
      replaced(testing::small_pipeline("missing", 6, kRanks), "examples/data/maths.train.jsonl", missing));
  const ProcessResult waited = cluster_.moectl({"wait", pipeline, "--timeout", "60"});
  EXPECT_EQ(waited.exit_code, 1) << waited.err << gang->output();
  EXPECT_THAT(waited.err, HasSubstr("FAILED"));
  const json job = cluster_.job(pipeline + "-train");
  EXPECT_EQ(job["state"], "JOB_STATE_FAILED") << job.dump(1);
  EXPECT_EQ(job["reason"], "INPUTS_UNREADABLE");
  ASSERT_EQ(job["attempts"].size(), 1U) << "trying again changes nothing";
  EXPECT_EQ(job["attempts"][0]["exit_code"], 65);
  EXPECT_THAT(job["message"].get<std::string>(), AllOf(HasSubstr(missing), HasSubstr("is missing or cannot be read")));
  EXPECT_THAT(cluster_.moectl({"describe", pipeline}).out, HasSubstr(missing));
  EXPECT_TRUE(gang->is_running()) << "the gang is not to blame";
  // The file is brought, the job retried: the same gang goes on.
  std::filesystem::copy_file(testing::source_dir() + "/examples/data/maths.train.jsonl", missing);
  EXPECT_EQ(cluster_.moectl({"retry", pipeline}).exit_code, 0);
  EXPECT_EQ(cluster_.wait_for(pipeline, 60), "SUCCEEDED") << gang->output();
}

/// Bytes that no message can carry as they are, and a line that no message can carry at all: each job fails once, in
/// words, and the gang goes on to the next.
TEST_F(MistakesTest, BytesThatAreNoUtf8FailTheJobAndNotTheGang) {
  const auto gang = cluster_.start_gang(kRanks, "a");
  const std::string model = testing::source_dir() + "/examples/base-7m";
  const std::string latin = write("latin.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"caf\xE9\"}\n");
  const std::string cut = write("cut.jsonl", "{\"text\": \"" + std::string(6'000'000, 'x'));
  const std::string spoilt = (cluster_.folder() / "spoilt").string();
  std::filesystem::copy(model, spoilt, std::filesystem::copy_options::recursive);
  std::filesystem::remove(std::filesystem::path(spoilt) / "tokenizer.model");
  write("spoilt/tokenizer.json", "{\"version\": \"1.0\", \"caf\xE9\": 1}");
  const std::string good = write("good.jsonl", "{\"text\": \"The old man and the sea.\"}\n");
  const auto submitted = [&](const std::string& name, const std::string& job) {
    return cluster_.submit("apiVersion: moe/v1\nkind: Job\nname: " + name + "\n" + job + "\n");
  };
  const auto evaluate = [&](const std::string& name, const std::string& of, const std::string& data) {
    return submitted(name, "evaluate: {input: " + of + ", data: [{path: " + data + "}]}");
  };
  const std::vector<std::pair<std::string, std::string>> bad{
      {evaluate("latin", model, latin), latin + ":2: not valid JSON"},
      {evaluate("cut", model, cut), cut + ":1: not valid JSON"},
      {submitted("calibrated",
                 "convert: {input: " + model +
                     ", ffn: {method: independent_random, experts: 8, top_k: 2}, calibration: {data: [{path: " + latin +
                     "}]}}"),
       latin + ":2: not valid JSON"},
      {evaluate("tokenizer", spoilt, good), "tokenizer.json: not valid JSON"}};
  const std::string last = evaluate("good", model, good);
  EXPECT_EQ(cluster_.wait_for(last, 100), "SUCCEEDED") << gang->output();
  for (const auto& [pipeline, message] : bad) {
    const json job = cluster_.job(pipeline + "-" + pipeline.substr(0, pipeline.rfind('-')));
    EXPECT_EQ(job["state"], "JOB_STATE_FAILED") << job.dump(1);
    ASSERT_EQ(job["attempts"].size(), 1U) << job.dump(1);
    EXPECT_EQ(job["attempts"][0]["exit_code"], 65);
    EXPECT_THAT(job["message"].get<std::string>(), HasSubstr(message));
    EXPECT_LT(job["message"].get<std::string>().size(), 1000U);
  }
  EXPECT_TRUE(gang->is_running()) << gang->output();
  EXPECT_EQ(cluster_.moectl_json({"get", "gangs"})["gangs"].size(), 1U) << "none had to start again";
}

TEST_F(MistakesTest, MoreRanksThanAnyGangHas) {
  const auto gang = cluster_.start_gang(kRanks, "a");
  ASSERT_TRUE(eventually(seconds(20), [&] { return testing::discovered_ranks(cluster_).size() == kRanks; }))
      << gang->output();
  const ProcessResult result = cluster_.moectl({"submit", write("large.yaml", testing::small_pipeline("large", 6, 8))});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("warning"), HasSubstr("a gang of 8 cpu ranks"),
                                HasSubstr("connected gangs have 2 cpu ranks")));
  const std::string pipeline = result.out.substr(0, result.out.find('\n'));
  const json job = cluster_.job(pipeline + "-convert");
  EXPECT_EQ(job["state"], "JOB_STATE_QUEUED");
  const std::string why = job["pending_explanation"];
  EXPECT_THAT(why, AllOf(HasSubstr("needs a gang of 8 cpu ranks"), HasSubstr("connected gangs have 2 cpu ranks"),
                         HasSubstr("gang.sh --ranks 8")));
  EXPECT_THAT(cluster_.moectl({"describe", pipeline + "-convert"}).out, HasSubstr(why));
  EXPECT_EQ(cluster_.moectl({"wait", pipeline, "--timeout", "1"}).exit_code, 6);
  std::cout << why << "\n";
}

TEST_F(MistakesTest, AGateThatDoesNotHoldCannotBeApproved) {
  const std::string pipeline = cluster_.submit(testing::small_pipeline("gated", 6, kRanks, 11, /*evaluates=*/true));
  const ProcessResult any = cluster_.moectl({"approve", pipeline});
  EXPECT_EQ(any.exit_code, 7);
  EXPECT_THAT(any.err, AllOf(HasSubstr("no gate holds pipeline " + pipeline), HasSubstr("RUNNING")));
  const ProcessResult named = cluster_.moectl({"approve", pipeline, "--gate", "sane"});
  EXPECT_EQ(named.exit_code, 7);
  EXPECT_THAT(named.err, AllOf(HasSubstr("'sane'"), HasSubstr("PENDING")));
  const ProcessResult unknown = cluster_.moectl({"reject", pipeline, "--gate", "same"});
  EXPECT_EQ(unknown.exit_code, 7);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("'same'"), HasSubstr("sane")));
  EXPECT_THAT(cluster_.moectl({"watch", pipeline, "--no-follow"}).out, Not(HasSubstr("GATE_APPROVED")));
}

}  // namespace
}  // namespace moe
