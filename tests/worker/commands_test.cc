// The commands on the bundled model, as a user calls them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::string kModel = testing::source_dir() + "/examples/base-7m";

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
  const testing::ProcessResult text =
      worker({"score", kModel, "--text", folder / "t.jsonl", "--out", folder / "scores.jsonl"});
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

TEST(TopKTest, ADenseModelHasNoExpertsToChooseFrom) {
  const testing::TempDir folder;
  write_file_atomically(folder / "i.jsonl", "{\"ids\": [1, 2]}\n");
  const std::string ids = folder / "i.jsonl";
  for (const std::vector<std::string>& command : {std::vector<std::string>{"score", kModel, "--ids", ids},
                                                  {"logits", kModel, "--ids", ids, "--out", folder / "l"},
                                                  {"generate", kModel, "--prompt", "a"}}) {
    std::vector<std::string> with = command;
    with.insert(with.end(), {"--top-k", "2"});
    const testing::ProcessResult result = worker(with);
    EXPECT_EQ(result.exit_code, 65) << command.front();
    EXPECT_THAT(result.err, HasSubstr("top_k 2 is of feed-forward experts")) << command.front();
    with.back() = "0";
    EXPECT_EQ(worker(with).exit_code, 64) << command.front();
  }
}

TEST(GenerateCommandTest, ContinuesThePromptAndSeedsRepeat) {
  const testing::ProcessResult greedy = worker({"generate", kModel, "--prompt", "The old man", "--max-tokens", "12"});
  ASSERT_EQ(greedy.exit_code, 0) << greedy.err;
  EXPECT_EQ(greedy.out.rfind("The old man", 0), 0U) << greedy.out;
  EXPECT_GT(greedy.out.size(), std::string("The old man").size() + 5);
  const auto drawn = [](const std::string& seed) {
    return worker({"generate", kModel, "--prompt", "The old man", "--max-tokens", "12", "--temperature", "1", "--seed",
                   seed})
        .out;
  };
  EXPECT_EQ(drawn("3"), drawn("3"));
  EXPECT_NE(drawn("3"), drawn("4"));
}

/// A shell's command line, `worker` in it standing for the program.
testing::ProcessResult shell(const std::string& command) {
  return testing::run_process(
      {"bash", "-c", "set -o pipefail; worker() { " + testing::worker_path() + " \"$@\"; }; " + command});
}

TEST(OutputTest, WhatCannotBeWrittenIsTold) {
  const testing::TempDir folder;
  write_file_atomically(folder / "i.jsonl", "{\"ids\": [1, 2]}\n");
  for (const std::string& command :
       {"score " + kModel + " --ids " + (folder / "i.jsonl").string(), "inspect " + kModel + " -o json --tensors",
        "generate " + kModel + " --prompt a --max-tokens 2",
        "logits " + kModel + " --ids " + (folder / "i.jsonl").string() + " --out " + (folder / "l").string(),
        std::string("--help")}) {
    const testing::ProcessResult result = shell("worker " + command + " >/dev/full");
    EXPECT_EQ(result.exit_code, 74) << command << "\n" << result.err;
    EXPECT_EQ(result.err, "moe-worker: cannot write to standard output: No space left on device; is the disk full?\n")
        << command;
  }
  const testing::ProcessResult closed = shell("worker inspect " + kModel + " >&-");
  EXPECT_EQ(closed.exit_code, 74) << closed.err;
  EXPECT_EQ(closed.err, "moe-worker: cannot write to standard output: Bad file descriptor\n");
}

TEST(OutputTest, AReaderThatWentAwayEndsItQuietly) {
  const testing::ProcessResult result =
      shell("worker inspect " + kModel + " -o json --tensors | head -c 1; echo ${PIPESTATUS[0]}");
  EXPECT_EQ(result.err, "");
  // What was written before the reader left is in the pipe; a program that comes later is told by the signal.
  const testing::ProcessResult gone = shell("(sleep 0.2; worker inspect " + kModel + "; echo $? >&2) | true");
  EXPECT_EQ(gone.err, "141\n");
}

TEST(OutputTest, OutMayBeAPipeALinkOrADescriptor) {
  const testing::TempDir folder;
  write_file_atomically(folder / "i.jsonl", "{\"ids\": [1, 2]}\n");
  const std::string score = "worker score " + kModel + " --ids " + (folder / "i.jsonl").string() + " --out ";
  const testing::ProcessResult plain = shell("worker score " + kModel + " --ids " + (folder / "i.jsonl").string());
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_EQ(shell(score + "/dev/stdout").out, plain.out);
  EXPECT_EQ(shell(score + "/dev/stdout | cat").out, plain.out);
  // Where the shell's own output stands, before it and behind it.
  const std::string both = "cd " + folder.path().string() + "; (echo before; " + score + "/dev/stdout; echo after) ";
  EXPECT_EQ(shell(both + "> both; cat both").out, "before\n" + plain.out + "after\n");
  EXPECT_EQ(shell(both + ">> both; cat both").out, "before\n" + plain.out + "after\nbefore\n" + plain.out + "after\n");
  EXPECT_EQ(shell(both + "3> third 1>&3; cat third").out, "before\n" + plain.out + "after\n");
  EXPECT_EQ(shell(score + "/dev/full").exit_code, 74);
  EXPECT_EQ(shell("mkfifo " + (folder / "pipe").string() + "; " + score + (folder / "pipe").string() + " & cat " +
                  (folder / "pipe").string())
                .out,
            plain.out);
  EXPECT_EQ(shell("cd " + folder.path().string() + "; umask 0; touch kept; chmod 600 kept; ln -s kept link; " + score +
                  "link; stat -c %a%F kept link")
                .out,
            "600regular file\n777symbolic link\n");
  EXPECT_EQ(read_file(folder / "kept"), plain.out);
}

TEST(CommandsTest, ABlankLineIsNoDocumentAndKeepsItsNumber) {
  const testing::TempDir folder;
  write_file_atomically(folder / "i.jsonl", "\n{\"ids\": [1, 2]}\n\n{\"ids\": [1]}\n");
  const testing::ProcessResult logits = worker({"logits", kModel, "--ids", folder / "i.jsonl", "--out", folder / "l"});
  EXPECT_EQ(logits.exit_code, 65);
  EXPECT_THAT(logits.err, HasSubstr("i.jsonl:4: 1 ids; all documents must have the same number"));
}

TEST(CommandsTest, WordsThatAreNotUtf8AreUsage) {
  const testing::ProcessResult result = worker({"inspect", "caf\xE9"});
  EXPECT_EQ(result.exit_code, 64);
  EXPECT_EQ(
      result.err,
      "moe-worker: argument 2 is not UTF-8 ('caf\\xE9'); rename the file or folder, or write the text as UTF-8\n");
}

/// The bundled model, as links, with another tokenizer or files beside it.
void lay_out(const std::filesystem::path& folder, const std::string& tokenizer) {
  for (const char* name : {"config.json", "model.safetensors"})
    std::filesystem::create_symlink(kModel + "/" + name, folder / name);
  std::filesystem::copy_file(tokenizer, folder / "tokenizer.model");
}

// Most ids that the model draws are beyond this tokenizer: 512 tokens, 4096 rows.
TEST(GenerateCommandTest, GoesOnOverRowsBeyondTheTokenizer) {
  const testing::TempDir folder;
  lay_out(folder.path(), testing::source_dir() + "/tests/testing/fixtures/stories260k/tokenizer.model");
  const testing::ProcessResult result =
      worker({"generate", folder.path().string(), "--prompt", "Once", "--max-tokens", "12", "--temperature", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out.rfind("Once", 0), 0U) << result.out;
}

TEST(CommandsTest, ATokenWithoutARowIsAnErrorWhereItOccurs) {
  const testing::TempDir folder;
  lay_out(folder.path(), kModel + "/tokenizer.model");
  write_file_atomically(folder / "tokenizer_config.json",
                        R"({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})");
  write_file_atomically(folder / "t.jsonl", "{\"text\": \"Once\"}\n{\"text\": \"Once <pad>\"}\n");
  const std::string model = folder.path().string(), text = folder / "t.jsonl";
  EXPECT_EQ(worker({"generate", model, "--prompt", "Once <pad>", "--max-tokens", "1"}).exit_code, 0);
  const testing::ProcessResult parsed = worker({"generate", model, "--prompt", "Once <pad>", "--parse-special-tokens"});
  EXPECT_EQ(parsed.exit_code, 65);
  EXPECT_THAT(parsed.err, HasSubstr("the token id 4096 is none of the model's 4096"));
  const testing::ProcessResult as_text = worker({"score", model, "--text", text});
  EXPECT_EQ(as_text.exit_code, 0) << as_text.err;
  EXPECT_THAT(as_text.err, HasSubstr("event=special_tokens_stay_text"));
  const testing::ProcessResult scored = worker({"score", model, "--text", text, "--parse-special-tokens"});
  EXPECT_EQ(scored.exit_code, 65);
  EXPECT_THAT(scored.err, HasSubstr("t.jsonl:2: the token \"<pad>\" has the id 4096, and the model has 4096"));
}

TEST(CommandsTest, MethodsListsEveryNameWithWhatItLooksAt) {
  const testing::ProcessResult text = worker({"methods"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out,
              HasSubstr("sequential\n  consecutive equal parts (LLaMA-MoE v2, vanilla)\n  looks at nothing\n"));
  EXPECT_THAT(text.out, HasSubstr("independent_clustering\n"));
  EXPECT_THAT(text.out,
              HasSubstr("    options.rate  of variant drop: share of an expert's neurons drawn anew (r): 0 .. 1; "
                        "default 0.5\n"));
  const json methods = json::parse(worker({"methods", "-o", "json"}).out).at("methods");
  EXPECT_EQ(methods.at(0).at("name"), "independent_random");
  EXPECT_EQ(methods.at(0).at("partition"), true);
}

TEST(CommandsTest, HelpHasExamplesAndMissingFlagsAreUsage) {
  for (const char* command : {"run", "score", "inspect", "generate", "export", "logits", "methods"}) {
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
