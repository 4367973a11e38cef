// The commands on the bundled model, as a user calls them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::string kModel = std::string(MOE_SOURCE_DIR) + "/examples/base-7m";

testing::ProcessResult worker(std::vector<std::string> arguments) {
  return testing::run_process(testing::worker_command(1, std::move(arguments)));
}

TEST(InspectCommandTest, CountsTheParametersOfTheFile) {
  const testing::ProcessResult result = worker({"inspect", kModel, "-o", "json", "--tensors"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json model = json::parse(result.out);
  EXPECT_EQ(model["kind"], "dense");
  int64_t total = 0;
  for (const json& tensor : model["tensors"]) {
    int64_t count = 1;
    for (const json& extent : tensor["shape"]) count *= extent.get<int64_t>();
    total += count;
  }
  EXPECT_EQ(model["parameters_total"], total);
  EXPECT_EQ(model["parameters_active"], total);
}

TEST(ScoreCommandTest, LogProbabilitiesOfTextAndIdsAgree) {
  const testing::TempDir folder;
  write_file_atomically(folder / "t.jsonl", "{\"text\": \"The old man went home.\"}\n{\"text\": \"\"}\n");
  const testing::ProcessResult text = worker({"score", kModel, "--text", folder / "t.jsonl", "--out", folder / "scores.jsonl"});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  std::istringstream lines(read_file(folder / "scores.jsonl"));
  std::string first, second;
  ASSERT_TRUE(std::getline(lines, first) && std::getline(lines, second));
  const json scored = json::parse(first), empty = json::parse(second);
  EXPECT_EQ(scored["ids"][0], 1) << "BOS first";
  ASSERT_EQ(scored["logprobs"].size(), scored["ids"].size() - 1);
  for (const json& value : scored["logprobs"]) {
    EXPECT_LT(value.get<double>(), 0);
    EXPECT_GT(value.get<double>(), -25);
  }
  EXPECT_EQ(empty["ids"], json({1}));
  EXPECT_TRUE(empty["logprobs"].empty());

  write_file_atomically(folder / "i.jsonl", json{{"ids", scored["ids"]}}.dump() + "\n");
  const testing::ProcessResult ids = worker({"score", kModel, "--ids", folder / "i.jsonl"});
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  EXPECT_EQ(json::parse(ids.out), scored);
}

TEST(GenerateCommandTest, ContinuesThePromptAndSeedsRepeat) {
  const testing::ProcessResult greedy = worker({"generate", kModel, "--prompt", "The old man", "--max-tokens", "12"});
  ASSERT_EQ(greedy.exit_code, 0) << greedy.err;
  EXPECT_EQ(greedy.out.rfind("The old man", 0), 0U) << greedy.out;
  EXPECT_GT(greedy.out.size(), std::string("The old man").size() + 5);
  const auto drawn = [](const std::string& seed) {
    return worker({"generate", kModel, "--prompt", "The old man", "--max-tokens", "12", "--temperature", "1", "--seed", seed}).out;
  };
  EXPECT_EQ(drawn("3"), drawn("3"));
  EXPECT_NE(drawn("3"), drawn("4"));
}

TEST(CommandsTest, HelpHasExamplesAndMissingFlagsAreUsage) {
  for (const char* command : {"run", "score", "inspect", "generate", "export", "logits"}) {
    const testing::ProcessResult help = worker({command, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.out, HasSubstr("Examples:")) << command;
  }
  EXPECT_EQ(worker({"score", kModel}).exit_code, 64);
  EXPECT_EQ(worker({"score", kModel, "--text", "a", "--ids", "b"}).exit_code, 64);
  const testing::ProcessResult bad = worker({"export", kModel, "-o", "/nowhere", "--max-shard-size", "0"});
  EXPECT_EQ(bad.exit_code, 64);
  EXPECT_THAT(bad.err, HasSubstr("--max-shard-size: expected a number above 0, not '0'"));
  EXPECT_EQ(worker({"score", kModel, "--text", "/nowhere.jsonl"}).exit_code, 65);
  EXPECT_EQ(worker({"inspect", "/nowhere"}).exit_code, 65);
}

}  // namespace
}  // namespace moe
