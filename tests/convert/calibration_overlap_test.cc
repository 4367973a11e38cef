// Calibration text in files that models are measured on: planted, and not there.
#include "convert/calibration_overlap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/opened_model.h"
#include "testing/paths.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Words "<prefix>0 <prefix>1 ..." of `count` words.
std::string words(const std::string& prefix, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += concat(i == 0 ? "" : " ", prefix, i);
  return text;
}

std::string line(const std::string& text) {
  return nlohmann::json{{"text", text}}.dump() + "\n";
}

class CalibrationOverlapTest : public ::testing::Test {
 protected:
  CalibrationOverlapTest() {
    // 8 + 28 n-grams, all distinct, in one row.
    write_file_atomically(path("calibration"), line(words("a", 20)) + line(words("b", 40)));
  }

  fs::path path(const std::string& name) const { return folder_ / (name + ".jsonl"); }

  /// The first rows of the calibration file against files, on so many ranks.
  CalibrationOverlap overlap(const std::vector<std::string>& files, int ranks = 1, bool has_tokenizer = true,
                             int64_t tokens = 1) {
    v1::ConvertSpec spec = testing::convert_spec("independent_random", 4, 2, path("calibration"));
    const OpenedModel model = open_model(fs::path(testing::source_dir()) / "examples/base-7m", text_of_job(""));
    spec.mutable_calibration()->set_tokens(tokens);
    CalibrationOverlap first;
    testing::run_ranks(ranks, [&](Communicator& world) {
      const CalibrationText text = read_calibration_text(spec, 1, model.directory.config(), model.text, world);
      const CalibrationOverlap found =
          calibration_overlap(text, has_tokenizer ? model.text.tokenizer.get() : nullptr, files, world);
      if (world.rank() == world.size() - 1) first = found;
    });
    return first;
  }

  testing::TempDir folder_;
};

TEST_F(CalibrationOverlapTest, APlantedRunIsCountedAndItsFileNamed) {
  // Words b10 to b29, 20 of them: 8 n-grams; and 12 words of a, which are none.
  write_file_atomically(path("planted"),
                        line("Something else.") +
                            line("So: " + words("b", 30).substr(words("b", 10).size()) + ". And " + words("a", 12)));
  write_file_atomically(path("clean"), line(words("c", 200)));
  const CalibrationOverlap found = overlap({path("clean"), path("planted")});
  EXPECT_EQ(found.ngrams, 8 + 28);
  EXPECT_EQ(found.shared_ngrams, 8);
  ASSERT_EQ(found.files.size(), 2U);
  EXPECT_EQ(found.files[0].shared_ngrams, 0);
  EXPECT_EQ(found.files[1].shared_ngrams, 8);
  EXPECT_EQ(found.files[1].path, path("planted"));
  EXPECT_DOUBLE_EQ(found.share(), 8.0 / 36);
}

TEST_F(CalibrationOverlapTest, ADistinctNgramCountsOnceInAFileAndOnceInAll) {
  write_file_atomically(path("twice"), line(words("a", 20)) + line(words("a", 20)));
  write_file_atomically(path("both"), line(words("a", 15)) + line(words("b", 40)));
  const CalibrationOverlap found = overlap({path("twice"), path("both")});
  EXPECT_EQ(found.files[0].shared_ngrams, 8);
  EXPECT_EQ(found.files[1].shared_ngrams, 3 + 28);
  EXPECT_EQ(found.shared_ngrams, 36);
  EXPECT_DOUBLE_EQ(found.share(), 1);
}

TEST_F(CalibrationOverlapTest, NoneIsNone) {
  write_file_atomically(path("clean"), line(words("c", 200)) + line(words("a", 12)));
  const CalibrationOverlap found = overlap({path("clean")});
  EXPECT_EQ(found.shared_ngrams, 0);
  EXPECT_EQ(found.share(), 0);
}

TEST_F(CalibrationOverlapTest, IsTheSameAtAnyNumberOfRanks) {
  std::string lines;
  for (int document = 0; document < 60; ++document) lines += line(words(concat("w", document, "x"), 20));
  write_file_atomically(path("calibration"), lines);
  const CalibrationOverlap one = overlap({path("calibration")}, 1, true, /*tokens=*/1500);
  EXPECT_GT(one.ngrams, 100);
  EXPECT_EQ(one.ngrams % 8, 0) << "whole documents";
  EXPECT_EQ(one.shared_ngrams, one.ngrams);
  for (const int ranks : {2, 3, 4}) {
    const CalibrationOverlap found = overlap({path("calibration")}, ranks, true, 1500);
    EXPECT_EQ(found.ngrams, one.ngrams) << ranks;
    EXPECT_EQ(found.shared_ngrams, one.ngrams) << ranks;
  }
}

TEST_F(CalibrationOverlapTest, WhatCannotBeReadIsUnknownAndTheRestIsCounted) {
  write_file_atomically(path("planted"), line(words("a", 13)));
  ::testing::internal::CaptureStderr();
  const CalibrationOverlap found = overlap({folder_ / "missing.jsonl", path("planted")});
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::HasSubstr("event=calibration_overlap_unknown"));
  EXPECT_EQ(found.files[0].shared_ngrams, std::nullopt);
  EXPECT_EQ(found.files[1].shared_ngrams, 1);
}

TEST_F(CalibrationOverlapTest, WithoutATokenizerThereIsNothingToCompare) {
  write_file_atomically(path("planted"), line(words("a", 40)));
  EXPECT_EQ(overlap({path("planted")}, 1, /*has_tokenizer=*/false).ngrams, 0);
}

}  // namespace
}  // namespace moe
