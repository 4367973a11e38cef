#include "runtime/opened_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "runtime/model_settings.h"
#include "testing/run_ranks.h"
#include "testing/sentencepiece_writer.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using enum TextNeeds::TokenizerFile;

class OpenedModelTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_tiny_model(model_, testing::tiny_config(), 1, at::kFloat); }

  std::string chat_template(const std::string& given = "") const {
    return open_model(model_, text_of_job(given)).text.chat_template.name;
  }
  void write_config(const char* key, const nlohmann::json& value) const {
    nlohmann::json config = nlohmann::json::parse(read_file(model_ / "config.json"));
    config[key] = value;
    write_file_atomically(model_ / "config.json", config.dump());
  }

  const testing::TempDir folder_;
  const std::filesystem::path model_ = folder_ / "model";
};

TEST_F(OpenedModelTest, TheTemplateIsTheGivenElseTheTrainedElseTheDirectorysOne) {
  EXPECT_EQ(chat_template(), kDefaultChatTemplate);
  write_file_atomically(model_ / "chat_template.jinja", chat_template_jinja("llama3", true));
  EXPECT_EQ(chat_template(), "llama3");
  write_config("chat_template_name", "of the model");
  EXPECT_EQ(chat_template(), "of the model");
  EXPECT_EQ(chat_template("given"), "given");
  write_config("chat_template_name", 3);
  EXPECT_THROW(chat_template(), InvalidArgument);
}

TEST_F(OpenedModelTest, ReadsNoMoreOfTheTextThanIsNeeded) {
  write_file_atomically(model_ / "tokenizer.model", "no tokenizer");
  write_config("chat_template_name", 3);
  EXPECT_EQ(open_model(model_).text.tokenizer, nullptr);
  EXPECT_THROW(open_model(model_, {.tokenizer = kIfThere}), Error);
  SentencePieceModel pieces;
  pieces.pieces = {{"<unk>", 0, PieceType::kUnknown}, {"<s>", 0, PieceType::kControl}, {"a", -1}};
  write_file_atomically(model_ / "tokenizer.model", testing::write_sentencepiece_model(pieces));
  EXPECT_NE(open_model(model_, {.tokenizer = kIfThere}).text.tokenizer, nullptr);
}

TEST_F(OpenedModelTest, AMissingTokenizerMattersWhereItIsRequired) {
  EXPECT_EQ(open_model(model_, {.tokenizer = kIfThere}).text.tokenizer, nullptr);
  EXPECT_THROW(open_model(model_, {.tokenizer = kRequired}), InvalidArgument);
}

TEST_F(OpenedModelTest, WhatOneRankCannotOpenNoneDoes) {
  std::atomic<int> told = 0;
  testing::run_ranks(3, [&](Communicator& world) {
    try {
      open_model(model_, {.tokenizer = world.rank() == 1 ? kRequired : kIfThere}, world);
    } catch (const Error& error) {
      EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("no tokenizer.json"));
      ++told;
    }
  });
  EXPECT_EQ(told, 3);
}

TEST(ModelSettingsTest, TheRowLengthComesFromTheModelWhereTheJobLeavesItOpen) {
  ModelConfig config = testing::tiny_config();
  EXPECT_EQ(sequence_length_for(config, 0), 64);
  EXPECT_EQ(sequence_length_for(config, 10), 10);
  config.max_positions = 4096;
  EXPECT_EQ(sequence_length_for(config, 0), 512);
}

}  // namespace
}  // namespace moe
