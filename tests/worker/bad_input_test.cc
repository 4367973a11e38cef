// What a user's mistakes look like: each is one short message that names file, field and value, the right exit code,
// from one rank only, and nothing half-written stays behind. Every case runs the real program.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

const fs::path kModel = fs::path(testing::source_dir()) / "examples" / "base-7m";

/// A small pipeline; each test spoils one line of it.
std::string pipeline(const fs::path& model, const fs::path& data) {
  return "apiVersion: moe/v1\n"
         "kind: Pipeline\n"
         "name: bad\n"
         "inputs: {dense: {path: " +
         model.string() +
         "}}\n"
         "defaults: {gang: {expert_parallel: 1}}\n"
         "stages:\n"
         "  - name: convert\n"
         "    convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: 2}, scale: {mode: energy}, router: "
         "{init: kaiming}}\n"
         "  - name: train\n"
         "    train:\n"
         "      input: convert.model\n"
         "      data: [{path: " +
         data.string() +
         "}]\n"
         "      steps: 2\n"
         "      sequence_length: 64\n"
         "      micro_batch_rows: 2\n"
         "  - gate: {name: good, metric: train.loss, op: \"<=\", value: 100}\n";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) throw std::runtime_error("the pipeline does not contain '" + from + "'");
  return text.replace(at, from.size(), to);
}

size_t occurrences(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

/// Paths below `root` that only an interrupted or failed write leaves.
std::vector<std::string> leftovers(const fs::path& root) {
  std::vector<std::string> found;
  if (!fs::exists(root)) return found;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string name = entry.path().filename();
    if (name.find(".tmp") != std::string::npos || name.find(".partial") != std::string::npos)
      found.push_back(entry.path());
  }
  return found;
}

class BadInputTest : public ::testing::Test {
 protected:
  BadInputTest() : data_(folder_ / "data.jsonl"), out_(folder_ / "out") {
    std::string lines;
    for (int i = 0; i < 40; ++i)
      lines += "{\"text\": \"The old man and the sea, number " + std::to_string(i) + ", went home.\"}\n";
    write_file_atomically(data_, lines);
  }

  testing::ProcessResult run(const std::string& yaml, int ranks = 1, std::vector<std::string> extra = {}) {
    const fs::path config = folder_ / "bad.yaml";
    write_file_atomically(config, yaml);
    std::vector<std::string> arguments{"run", config.string(), "--out", out_.string()};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return testing::run_process(testing::worker_command(ranks, arguments));
  }

  /// One report on one screen, with this code and these words.
  void expect_refused(const testing::ProcessResult& result, int exit_code, const std::vector<std::string>& words) {
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    for (const std::string& word : words) EXPECT_THAT(result.err, HasSubstr(word));
    EXPECT_EQ(occurrences(result.err, "moe-worker: "), 1U) << result.err;
    EXPECT_LE(std::count(result.err.begin(), result.err.end(), '\n'), 40) << result.err;
    EXPECT_THAT(leftovers(out_), ::testing::IsEmpty());
  }

  /// A copy of the model whose weight file was changed.
  fs::path damaged_model(const std::function<void(std::string&)>& damage) {
    const fs::path model = folder_ / "model";
    fs::create_directory(model);
    for (const char* name : {"config.json", "tokenizer.model"}) fs::copy_file(kModel / name, model / name);
    std::string bytes = read_file(kModel / "model.safetensors");
    damage(bytes);
    write_file_atomically(model / "model.safetensors", bytes);
    return model;
  }

  testing::TempDir folder_;
  fs::path data_;
  fs::path out_;
};

/// Edits the JSON header in place, keeping its length.
void edit_header(std::string& file, const std::string& from, const std::string& to) {
  ASSERT_EQ(from.size(), to.size());
  const size_t at = file.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  file.replace(at, from.size(), to);
}

TEST_F(BadInputTest, TheUnspoiledPipelineRuns) {
  const testing::ProcessResult result = run(pipeline(kModel, data_));
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(BadInputTest, TruncatedSafetensors) {
  const fs::path model = damaged_model([](std::string& file) { file.resize(file.size() - 1000); });
  expect_refused(run(pipeline(model, data_)), 65, {"model.safetensors"});
}

TEST_F(BadInputTest, HeaderLengthBeyondTheFile) {
  const fs::path model = damaged_model([](std::string& file) {
    const uint64_t length = 99'000'000;
    std::memcpy(file.data(), &length, 8);
  });
  expect_refused(run(pipeline(model, data_)), 65, {"model.safetensors", "99000000"});
}

TEST_F(BadInputTest, WrongShapeNamesTheTensor) {
  const fs::path model = damaged_model([](std::string& file) { edit_header(file, "[4096,256]", "[256,4096]"); });
  expect_refused(run(pipeline(model, data_)), 65, {"model.safetensors", "4096"});
}

TEST_F(BadInputTest, NanWeightNamesTheTensor) {
  const fs::path model = damaged_model([](std::string& file) {
    uint64_t header = 0;
    std::memcpy(&header, file.data(), 8);
    const uint16_t nan = 0x7fc0;
    for (size_t at = 8 + header; at + 2 <= file.size(); at += 2) std::memcpy(file.data() + at, &nan, 2);
  });
  expect_refused(run(pipeline(model, data_)), 65, {"model.safetensors", "finite"});
}

TEST_F(BadInputTest, MissingModelFolder) {
  expect_refused(run(pipeline(folder_ / "nowhere", data_)), 65, {"nowhere"});
}

TEST_F(BadInputTest, MissingDataFile) {
  expect_refused(run(pipeline(kModel, folder_ / "nowhere.jsonl")), 65, {"nowhere.jsonl"});
}

TEST_F(BadInputTest, MalformedLineIsNamed) {
  std::ofstream(data_, std::ios::app) << "{\"text\": \"broken\n";
  expect_refused(run(pipeline(kModel, data_)), 65, {"data.jsonl:41"});
}

TEST_F(BadInputTest, BytesThatAreNoUtf8AreNamedOnAnyNumberOfRanks) {
  std::ofstream(data_, std::ios::app) << "{\"text\": \"caf\xE9\"}\n";
  expect_refused(run(pipeline(kModel, data_), 2), 65, {"data.jsonl:41: not valid JSON", "'\"caf\\xE9"});
}

TEST_F(BadInputTest, ALineOfMegabytesIsToldInAFewHundredBytes) {
  std::ofstream(data_, std::ios::app) << "{\"text\": \"" << std::string(6'000'000, 'x');
  const testing::ProcessResult result = run(pipeline(kModel, data_), 2);
  expect_refused(result, 65, {"data.jsonl:41: not valid JSON"});
  EXPECT_LT(result.err.size(), 3000U);
}

TEST_F(BadInputTest, AConfigFileInLatin1NamesTheLine) {
  const std::string yaml = replaced(pipeline(kModel, data_), "data: [{path: " + data_.string() + "}]",
                                    "data: [{path: " + data_.string() + ", domain: \"caf\xE9\"}]");
  expect_refused(run(yaml), 65, {"bad.yaml:12: not UTF-8 ('caf\\xE9'); save the file as UTF-8"});
}

TEST_F(BadInputTest, LinesAfterABlankOneKeepTheirNumbers) {
  std::ofstream(data_, std::ios::app) << "\n{\"text\": 3}\n";
  expect_refused(run(pipeline(kModel, data_)), 65, {"data.jsonl:42: `text` is number"});
}

TEST_F(BadInputTest, EmptyDataFile) {
  write_file_atomically(data_, "");
  expect_refused(run(pipeline(kModel, data_)), 65, {"data.jsonl"});
}

TEST_F(BadInputTest, AllYamlProblemsAtOnceFromOneRank) {
  std::string yaml = pipeline(kModel, data_);
  yaml = replaced(yaml, "      steps: 2\n", "      steps: two\n      stepps: 3\n      sequence_length: 32\n");
  yaml = replaced(yaml, "top_k: 2", "top_k: 9");
  yaml = replaced(yaml, "metric: train.loss", "metric: train.wisdom");
  expect_refused(
      run(yaml, 2), 65,
      {"bad.yaml:", "steps", "two", "stepps", "sequence_length", "top_k", "9", "experts", "8", "train.wisdom"});
  EXPECT_FALSE(fs::exists(out_ / "convert")) << "nothing may start before the file is right";
}

TEST_F(BadInputTest, ExpertsMustDivideTheWidth) {
  expect_refused(run(replaced(pipeline(kModel, data_), "experts: 8", "experts: 7")), 65, {"experts", "7", "768"});
}

TEST_F(BadInputTest, ExpertParallelMustDivideTheRanks) {
  expect_refused(run(replaced(pipeline(kModel, data_), "expert_parallel: 1", "expert_parallel: 4"), 2), 65,
                 {"expert_parallel", "4", "2"});
}

TEST_F(BadInputTest, GangOfAnotherSize) {
  expect_refused(run(replaced(pipeline(kModel, data_), "expert_parallel: 1", "ranks: 4")), 65, {"ranks", "4", "1"});
}

TEST_F(BadInputTest, MissingConfigFile) {
  const testing::ProcessResult result =
      testing::run_process(testing::worker_command(2, {"run", (folder_ / "no.yaml").string()}));
  expect_refused(result, 65, {"no.yaml"});
}

TEST_F(BadInputTest, BadOverrideNamesTheFlag) {
  expect_refused(run(pipeline(kModel, data_), 1, {"--set", "stages.train.train.stps=3"}), 65, {"--set", "stps"});
}

TEST_F(BadInputTest, UnknownCommandIsUsage) {
  EXPECT_EQ(testing::run_process(testing::worker_command(1, {"dance"})).exit_code, 64);
  EXPECT_EQ(testing::run_process(testing::worker_command(1, {"run"})).exit_code, 64);
  EXPECT_EQ(testing::run_process(testing::worker_command(1, {"run", "--help"})).exit_code, 0);
}

TEST_F(BadInputTest, FullDiskSaysSoAndLeavesNothing) {
  const fs::path disk = folder_ / "disk";
  fs::create_directory(disk);
  if (geteuid() != 0 || mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=6m") != 0) {
    GTEST_SKIP() << "mounting a small tmpfs needs root and a kernel that allows it here";
  }
  out_ = disk / "out";
  const testing::ProcessResult result = run(pipeline(kModel, data_), 2);
  expect_refused(result, 74, {"No space left", out_.string()});
  umount(disk.c_str());
}

TEST_F(BadInputTest, ReadOnlyOutput) {
  const fs::path disk = folder_ / "disk";
  fs::create_directory(disk);
  if (geteuid() != 0 || mount("tmpfs", disk.c_str(), "tmpfs", MS_RDONLY, "size=1m") != 0) {
    GTEST_SKIP() << "mounting a read-only tmpfs needs root and a kernel that allows it here";
  }
  out_ = disk / "out";
  const testing::ProcessResult result = run(pipeline(kModel, data_));
  expect_refused(result, 74, {"Read-only", out_.string()});
  umount(disk.c_str());
}

}  // namespace
}  // namespace moe
