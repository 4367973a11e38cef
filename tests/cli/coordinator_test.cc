// moectl with the real moe-coordinator and a gang that only pretends to work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/coordinator_process.h"
#include "cli/run_moectl.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr char kTrain[] = R"(apiVersion: moe/v1
kind: Job
name: tiny
gang: {ranks: 2}
train:
  input: ./model
  steps: 10
  data: [{path: t.jsonl}]
)";

constexpr char kGated[] = R"(apiVersion: moe/v1
kind: Pipeline
name: gated
inputs: {dense: {path: model}}
stages:
  - name: evaluate
    evaluate: {input: dense, data: [{path: e.jsonl}], tasks: [perplexity]}
  - gate: {name: good, metric: evaluate.loss, op: "<", value: 2}
)";

class CoordinatorTest : public ::testing::Test {
 protected:
  CoordinatorTest() : gang_(coordinator_.address(), coordinator_.data_root()) {}

  ProcessResult moectl(std::vector<std::string> arguments) {
    return run_moectl(coordinator_.address(), std::move(arguments), folder_.path());
  }

  std::string submit(const std::string& text, std::vector<std::string> more = {}) {
    std::ofstream(folder_ / "p.yaml") << text;
    more.insert(more.begin(), {"submit", "p.yaml"});
    const ProcessResult result = moectl(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out.substr(0, result.out.find('\n'));
  }

  CoordinatorProcess coordinator_;
  PretendedGang gang_;
  TempDir folder_;
};

TEST_F(CoordinatorTest, SubmitIsIdempotentAndIdsMayBeShortened) {
  const std::string id = submit(kTrain, {"--request-id", "r-1"});
  EXPECT_THAT(id, MatchesRegex("tiny-[a-z2-7]{8}"));
  EXPECT_EQ(submit(kTrain, {"--request-id", "r-1"}), id);
  EXPECT_EQ(moectl({"submit", "p.yaml", "--request-id", "r-1", "--set", "train.steps=11"}).exit_code, 7);
  EXPECT_EQ(nlohmann::json::parse(moectl({"describe", "tiny", "-o", "json"}).out)["id"], id);
  const std::string other = submit(kTrain);
  EXPECT_NE(other, id);
  EXPECT_NE(moectl({"describe", "tiny"}).exit_code, 0) << "two pipelines begin so";
  EXPECT_EQ(nlohmann::json::parse(moectl({"get", "pipelines", "-o", "json"}).out)["pipelines"].size(), 2u);
}

TEST_F(CoordinatorTest, ADryRunFindsTheNamesThatNoGangKnows) {
  gang_.join();
  std::ofstream(folder_ / "p.yaml") << "apiVersion: moe/v1\nkind: Job\nname: tiny\nconvert:\n  input: ./model\n"
                                       "  ffn:\n    method: sequentiel\n    experts: 4\n    topk: 2\n";
  const ProcessResult result = moectl({"submit", "p.yaml", "--dry-run"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(ContainsRegex("p.yaml:7: convert.ffn.method: .*sequentiel.*did you mean 'sequential'"),
                                HasSubstr("p.yaml:9: convert.ffn.topk: unknown key (topk); did you mean 'top_k'?")));
  EXPECT_EQ(nlohmann::json::parse(moectl({"get", "pipelines", "-o", "json"}).out)["pipelines"].size(), 0u)
      << "nothing is stored";
  // Good but for the method: the refusal has the line too.
  std::ofstream(folder_ / "q.yaml")
      << "apiVersion: moe/v1\nkind: Job\nname: tiny\nconvert:\n  input: ./model\n"
         "  ffn: {method: sequentiel, experts: 4, top_k: 2}\n  scale: {mode: n_over_k}\n  router: {init: zero}\n";
  const ProcessResult refused = moectl({"submit", "q.yaml"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, ContainsRegex("q.yaml:6: convert.ffn.method: .*sequentiel"));
}

TEST_F(CoordinatorTest, ADryRunFindsMissingModelsAndData) {
  gang_.join();
  const std::string root = coordinator_.data_root().string();
  std::filesystem::create_directories(folder_ / "model");
  std::ofstream(folder_ / "model" / "config.json") << "{}";
  std::ofstream(folder_ / "t.jsonl") << "";
  std::ofstream(folder_ / "p.yaml") << kTrain;
  ProcessResult result = moectl({"submit", "p.yaml", "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("valid\n"));
  EXPECT_THAT(result.err, HasSubstr("looked for the 2 models and data files that it names: 2 are there"));
  // Not below the data root: perhaps a gang has it.
  std::filesystem::remove(folder_ / "t.jsonl");
  result = moectl({"submit", "p.yaml", "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("valid, with 1 warning\n"));
  EXPECT_THAT(result.err, AllOf(ContainsRegex("warning: train.data.0.path: there is no such file"),
                                HasSubstr("gangs elsewhere may have it")));
  // Below it: nobody has.
  result = moectl({"submit", "p.yaml", "--dry-run", "--set", "train.input=" + root + "/modle"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(ContainsRegex("train.input: there is no such folder .*/modle"),
                                HasSubstr("the coordinator looked")));
  EXPECT_THAT(result.out, Not(HasSubstr("valid")));
  std::ofstream(folder_ / "p.yaml") << kTrain;
  result = moectl({"submit", "p.yaml", "--set", "train.input=" + root + "/modle"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, ContainsRegex("train.input: there is no such folder"));
}

TEST_F(CoordinatorTest, MoreRanksThanAnyGangIsAWarningThenAnExplanation) {
  gang_.join();
  std::ofstream(folder_ / "p.yaml") << kTrain;
  const ProcessResult result = moectl({"submit", "p.yaml", "--set", "gang.ranks=64"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, ContainsRegex("warning: .*64"));
  EXPECT_THAT(moectl({"describe", result.out.substr(0, result.out.find('\n')) + "-tiny"}).out,
              ContainsRegex("Pending +.*64"));
}

TEST_F(CoordinatorTest, ATrainingJobIsDescribedFollowedAndFinished) {
  gang_.join();
  const std::string job = submit(kTrain) + "-tiny";
  const v1::Lease lease = gang_.lease();
  ASSERT_EQ(lease.job_id(), job);
  gang_.heartbeat(lease, 5, 10);
  gang_.report(lease, 5);
  gang_.append_log(lease, "event=started\n");
  const std::string text = moectl({"describe", job}).out;
  std::cout << text;
  EXPECT_THAT(text,
              AllOf(HasSubstr("State       RUNNING"), HasSubstr("training step 5/10  loss 1.7500  5210 tokens/s"),
                    HasSubstr("loss  █▇▅▃▁  4.75 -> 3.75"), ContainsRegex("0 +0.50 +1.50 +▁█▁█"),
                    ContainsRegex("Attention expert load, .*\n.*\n +0 +0.50 +1.50 "), HasSubstr("gang-of-the-test")));
  EXPECT_THAT(moectl({"get", "gangs"}).out, ContainsRegex("gang-of-the-test +busy +2 +cpu +" + job));

  RunningMoectl logs(coordinator_.address(), {"logs", job, "-f"});
  RunningMoectl watch(coordinator_.address(), {"watch", job});
  ASSERT_TRUE(logs.prints("event=started") && watch.prints("RUNNING")) << logs.err() << watch.err();
  coordinator_.kill();
  ASSERT_TRUE(logs.says("is away")) << logs.err();
  gang_.append_log(lease, "event=went_on\n");
  coordinator_.start();
  gang_.heartbeat(lease, 9, 10);
  gang_.append_log(lease, "event=finished\n");
  gang_.succeed(lease);
  const ProcessResult followed = logs.finish();
  EXPECT_EQ(followed.exit_code, 0) << followed.err;
  EXPECT_EQ(followed.out, "event=started\nevent=went_on\nevent=finished\n");
  const ProcessResult watched = watch.finish();
  EXPECT_EQ(watched.exit_code, 0) << watched.err;
  for (const char* event : {"QUEUED", "ASSIGNED", "RUNNING", "SUCCEEDED"}) {
    const size_t first = watched.out.find(std::string(event) + "\n"),
                 second = watched.out.find(std::string(event) + "  ");
    EXPECT_TRUE((first == std::string::npos) != (second == std::string::npos)) << event << " not once in\n"
                                                                               << watched.out;
  }
  EXPECT_THAT(moectl({"get", "artifacts"}).out, HasSubstr(job + "/output-t0001"));
  EXPECT_EQ(moectl({"cancel", job}).exit_code, 7) << "it is over";
  EXPECT_THAT(moectl({"metrics", job, "--csv"}).out, HasSubstr("step,loss\n1,4.75\n2,4.5\n"));
}

TEST_F(CoordinatorTest, AFailedJobIsOneWithItsReasonAndMayBeRetried) {
  gang_.join();
  std::ofstream(folder_ / "p.yaml") << kTrain;
  RunningMoectl submitted(coordinator_.address(), {"submit", (folder_ / "p.yaml").string(), "--wait"});
  gang_.fail(gang_.lease(), "t.jsonl:3: not a JSON object");
  const ProcessResult result = submitted.finish();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("FAILED after"), HasSubstr("t.jsonl:3: not a JSON object")));
  const std::string id = result.out.substr(0, result.out.find('\n'));
  EXPECT_THAT(moectl({"describe", id + "-tiny"}).out, ContainsRegex("PERMANENT +65"));
  const ProcessResult readmitted = moectl({"readmit", "gang-of"});
  EXPECT_EQ(readmitted.exit_code, 0);
  EXPECT_THAT(readmitted.out, HasSubstr("gang-of-the-test "));
  EXPECT_THAT(readmitted.err, HasSubstr("it was not quarantined"))
      << "what a job fails at is not held against its gang";
  EXPECT_EQ(moectl({"readmit", id}).exit_code, 3);
  EXPECT_EQ(moectl({"retry", id}).exit_code, 0);
  gang_.succeed(gang_.lease());
  EXPECT_EQ(moectl({"wait", id, "--timeout", "20"}).exit_code, 0);
}

TEST_F(CoordinatorTest, AGateHoldsAndIsApproved) {
  gang_.join();
  const std::string id = submit(kGated);
  gang_.succeed(gang_.lease());
  const ProcessResult held = moectl({"wait", id, "--timeout", "20"});
  EXPECT_EQ(held.exit_code, 1);
  EXPECT_THAT(held.err, HasSubstr("moectl approve " + id + " --gate good"));
  EXPECT_THAT(moectl({"describe", id}).out, ContainsRegex("good +gate +HELD +.*2.5"));
  EXPECT_EQ(moectl({"approve", id, "--gate", "bad"}).exit_code == 0, false);
  EXPECT_EQ(moectl({"approve", id, "--comment", "fine"}).exit_code, 0);
  EXPECT_EQ(moectl({"wait", id, "--timeout", "20"}).exit_code, 0);
  EXPECT_EQ(moectl({"approve", id}).exit_code, 7) << "nothing holds any more";
  EXPECT_EQ(moectl({"approve", id, "--gate", "good"}).exit_code, 0) << "that one was let pass, and is";
  EXPECT_THAT(moectl({"describe", id}).out, AllOf(HasSubstr("APPROVED"), HasSubstr("ada"), Not(HasSubstr("approve"))));
}

TEST_F(CoordinatorTest, PauseResumeCancelAndUnknownIds) {
  const std::string id = submit(kTrain);
  EXPECT_EQ(moectl({"pause", id}).out, id + " PAUSED\n");
  EXPECT_EQ(moectl({"wait", id, "--for", "paused"}).exit_code, 0);
  EXPECT_EQ(moectl({"pause", id}).exit_code, 0);
  EXPECT_EQ(moectl({"resume", id}).out, id + " RUNNING\n");
  EXPECT_EQ(moectl({"pause", id + "-tiny"}).exit_code, 0);
  EXPECT_THAT(moectl({"get", "pipelines", "--state", "paused"}).out, ContainsRegex(id + " +PAUSED"))
      << "its only job is";
  EXPECT_EQ(moectl({"cancel", id}).out, id + " CANCELED\n");
  const ProcessResult again = moectl({"cancel", id});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(again.out, id + " CANCELED\n");
  EXPECT_THAT(again.err, HasSubstr(id + ": it was CANCELED before; nothing was left to do"));
  EXPECT_EQ(moectl({"watch", id}).exit_code, 1);
  for (const char* command :
       {"describe", "logs", "watch", "wait", "metrics", "cancel", "pause", "resume", "retry", "approve"}) {
    EXPECT_EQ(moectl({command, "no-such-thing"}).exit_code, 3) << command;
  }
}

}  // namespace
}  // namespace moe::testing
