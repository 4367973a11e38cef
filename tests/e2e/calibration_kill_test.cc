// kill -9 of one rank while a conversion is calibrated: nothing is left half-written, and the same command again makes
// the bytes of a conversion that was never stopped, from what was kept before the kill.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "common/file_io.h"
#include "e2e/killed_conversion.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::made;

constexpr int kRanks = 2;

constexpr char kPipeline[] = R"(apiVersion: moe/v1
kind: Pipeline
name: calibrated
inputs: {dense: {path: examples/base-7m}}
stages:
  - name: convert
    convert:
      input: dense
      ffn: {method: residual, experts: 7, shared_experts: 1, top_k: 2}
      router: {init: hidden_clustering}
      calibration: {tokens: 16384, data: [{path: examples/data/maths.train.jsonl}, {path: examples/data/books.train.jsonl}]}
)";

/// The calibration's files, those of an interrupted write apart, which have other names than what is read.
std::map<std::string, std::string> kept(const fs::path& out) {
  std::map<std::string, std::string> files;
  std::error_code missing;
  for (const auto& entry : fs::recursive_directory_iterator(out / "calibrations", missing)) {
    const fs::path& path = entry.path();
    if (path.extension() == ".json" || path.extension() == ".safetensors")
      files[path.filename()] = xxh3_hex_of_file(path);
  }
  return files;
}

bool has_part(const fs::path& out, const std::string& beginning) {
  std::error_code missing;
  for (const auto& entry : fs::recursive_directory_iterator(out / "calibrations", missing)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(beginning) && name.ends_with(".json")) return true;
  }
  return false;
}

class CalibrationKillTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TempDir;
    write_file_atomically(*folder_ / "calibrated.yaml", kPipeline);
    const testing::ProcessResult result = run(undisturbed());
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }
  static void TearDownTestSuite() { delete folder_; }

  static fs::path undisturbed() { return *folder_ / "undisturbed"; }

  static testing::ProcessResult run(const fs::path& out) {
    return testing::run_conversion(*folder_ / "calibrated.yaml", out, kRanks);
  }

  /// Runs, and kills one rank as soon as `moment` holds.
  static void run_and_kill(const fs::path& out, const std::function<bool()>& moment) {
    testing::run_and_kill(*folder_ / "calibrated.yaml", out, kRanks, moment);
    for (const auto& [name, digest] : kept(out)) EXPECT_EQ(digest, kept(undisturbed()).at(name)) << name;
  }

  /// Goes on, and returns its log.
  static std::string finish_and_compare(const fs::path& out) {
    const testing::ProcessResult result = run(out);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_GT(made(out).size(), 3U);
    EXPECT_EQ(made(out), made(undisturbed()));
    EXPECT_EQ(kept(out), kept(undisturbed()));
    return result.err;
  }

  static testing::TempDir* folder_;
};
testing::TempDir* CalibrationKillTest::folder_ = nullptr;

TEST_F(CalibrationKillTest, WhileImportanceIsMeasuredItBeginsAnewFromTheRows) {
  const fs::path out = *folder_ / "measuring";
  run_and_kill(out, [&] { return has_part(out, "rows"); });
  const std::string log = finish_and_compare(out);
  EXPECT_THAT(log, ::testing::HasSubstr("event=calibration_reused"));
  EXPECT_THAT(log, ::testing::Not(::testing::HasSubstr("event=calibration_damaged")));
}

TEST_F(CalibrationKillTest, WhileLayersArePlannedItGoesOnWithTheImportance) {
  const fs::path out = *folder_ / "planning";
  run_and_kill(out, [&] { return has_part(out, "importance"); });
  EXPECT_THAT(finish_and_compare(out), ::testing::HasSubstr("groups=\"router 7\""));
}

}  // namespace
}  // namespace moe
