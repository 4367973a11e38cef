// `moe-worker run` and calibrations: kept for later stages and runs, and told of where they stand in evaluated files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class CalibrationRunTest : public ::testing::Test {
 protected:
  CalibrationRunTest() {
    write_text("calibration", 1);
    write_text("other", 2);
  }

  fs::path text(const std::string& name) const { return folder_ / (name + ".jsonl"); }

  /// 60 documents of 30 random words of four letters.
  void write_text(const std::string& name, uint64_t seed) const {
    CounterRng rng(seed, kStreamTest);
    std::string lines;
    for (int document = 0; document < 60; ++document) {
      std::string words;
      for (int letter = 0; letter < 30 * 5; ++letter)
        words += letter % 5 == 4 ? ' ' : static_cast<char>('a' + static_cast<char>(rng.below(26)));
      lines += json{{"text", words}}.dump() + "\n";
    }
    write_file_atomically(text(name), lines);
  }

  std::string converting(const std::string& name, const std::string& method) const {
    return concat("  - {name: ", name, ", convert: {input: dense, ffn: {method: ", method,
                  ", experts: 4, top_k: 2}, calibration: {tokens: 512, data: [{path: ", text("calibration").string(),
                  "}]}}}\n");
  }
  std::string evaluating(const std::string& file) const {
    return concat("  - {name: evaluate, evaluate: {input: dense, max_tokens: 200, sequence_length: 64, data: [{path: ",
                  text(file).string(), "}]}}\n");
  }

  testing::ProcessResult run(const std::string& stages, const std::string& out, int ranks = 1) const {
    const fs::path file = folder_ / (out + ".yaml");
    write_file_atomically(file, concat("apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: ",
                                       testing::source_dir(), "/examples/base-7m}}\nstages:\n", stages));
    testing::ProcessResult result =
        testing::run_process(testing::worker_command(ranks, {"run", file, "--out", folder_ / out}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result;
  }

  /// What a conversion wrote, by name, without the record of how it went.
  std::map<std::string, std::string> made(const std::string& out, const std::string& stage) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / out / stage / "output-t0001")) {
      if (entry.path().filename() != "STAGE.json") files[entry.path().filename()] = read_file(entry.path());
    }
    return files;
  }
  json record(const std::string& out) const {
    return json::parse(read_file(folder_ / out / "convert/output-t0001/STAGE.json"));
  }

  testing::TempDir folder_;
};

TEST_F(CalibrationRunTest, IsMadeOnceForAllStagesOfARoot) {
  const testing::ProcessResult both =
      run(converting("first", "independent_gradient") + converting("second", "sharing_inner"), "both", 2);
  EXPECT_THAT(both.err, AllOf(HasSubstr("event=calibration_kept"), HasSubstr("event=calibration_reused"),
                              HasSubstr("groups=\"text 4\"")));
  const testing::ProcessResult alone = run(converting("second", "sharing_inner"), "alone");
  EXPECT_THAT(alone.err, Not(HasSubstr("event=calibration_reused")));
  EXPECT_EQ(made("both", "second"), made("alone", "second"));
  const json first = json::parse(made("both", "first").at("conversion.json"));
  EXPECT_EQ(first["calibration"]["digest"],
            json::parse(made("alone", "second").at("conversion.json"))["calibration"]["digest"]);
  EXPECT_TRUE(
      fs::exists(folder_ / "both/calibrations" / first["calibration"]["digest"].get<std::string>() / "rows.json"));
}

TEST_F(CalibrationRunTest, TextThatIsEvaluatedOnIsToldInLogMetricsAndReport) {
  const testing::ProcessResult planted =
      run(converting("convert", "independent_random") + evaluating("calibration"), "planted", 2);
  EXPECT_THAT(planted.err, AllOf(HasSubstr("event=calibration_overlap share=1 "), HasSubstr("calibration.jsonl:")));
  EXPECT_EQ(record("planted")["metrics"]["calibration_overlap"], 1);
  const json details = record("planted")["details"]["calibration_overlap"];
  EXPECT_EQ(details["files"][0]["shared_ngrams"], details["ngrams"]);
  EXPECT_GT(details["ngrams"], 18 * 3) << "18 of each document";
  const std::string sentence = "100.0 % of the calibration text's word 13-grams stand in files";
  EXPECT_THAT(planted.out,
              ContainsRegex("100.0 % of the[ \n]calibration text's[ \n]word[ \n]13-grams stand[ \n]in files"));
  EXPECT_THAT(read_file(folder_ / "planted/report.html"), HasSubstr(sentence));

  const testing::ProcessResult clean = run(converting("convert", "independent_random") + evaluating("other"), "clean");
  EXPECT_THAT(clean.err, Not(HasSubstr("event=calibration_overlap")));
  EXPECT_EQ(record("clean")["metrics"]["calibration_overlap"], 0);
  EXPECT_THAT(clean.out, Not(HasSubstr("13-grams")));
  EXPECT_EQ(made("planted", "convert"), made("clean", "convert")) << "what is evaluated on is no input of the stage";

  run(converting("convert", "independent_random"), "unmeasured");
  EXPECT_FALSE(record("unmeasured")["metrics"].contains("calibration_overlap"));
}

}  // namespace
}  // namespace moe
