#include "data/tokenizer/sentencepiece_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <iostream>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "data/tokenizer/sentencepiece_tokenizer.h"
#include "testing/paths.h"
#include "testing/sentencepiece_writer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
const fs::path kRoot = testing::source_dir();
const fs::path kModels[] = {kRoot / "tests/testing/fixtures/stories260k/tokenizer.model",
                            kRoot / "tests/testing/fixtures/babyllama-105/tokenizer.model",
                            kRoot / "examples/base-7m/tokenizer.model"};

SentencePieceModel tiny() {
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown, 0}, {"<s>", 0, PieceType::kControl, 0},
                  {"</s>", 0, PieceType::kControl, 0},  {"a", -1, PieceType::kNormal, 0},
                  {"b", -2, PieceType::kNormal, 0},     {"ab", -3, PieceType::kNormal, 0}};
  return model;
}

void expect_refused(const std::string& bytes, const std::string& words) {
  try {
    SentencePieceTokenizer(bytes, "dir/tokenizer.model").encode("ab");
    ADD_FAILURE() << "accepted; expected: " << words;
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr(words));
    EXPECT_THAT(error.what(), HasSubstr("dir/tokenizer.model: "));
  }
}

TEST(SentencePieceModelTest, ReadsWhatTheRealFilesSay) {
  const auto model = [](const fs::path& file) { return parse_sentencepiece_model(read_file(file), file.string()); };
  const SentencePieceModel stories = model(kModels[0]), baby = model(kModels[1]), base = model(kModels[2]);
  EXPECT_EQ(stories.pieces.size(), 512U);
  EXPECT_EQ(baby.pieces.size(), 105U);
  EXPECT_EQ(base.pieces.size(), 4096U);
  EXPECT_TRUE(stories.byte_fallback && base.byte_fallback);
  EXPECT_FALSE(baby.byte_fallback);
  EXPECT_FALSE(stories.remove_extra_whitespaces || base.remove_extra_whitespaces);
  EXPECT_TRUE(baby.remove_extra_whitespaces && baby.add_dummy_prefix);
  EXPECT_EQ(base.pieces[3 + 0xAB].byte, 0xAB);
  EXPECT_EQ(stories.pieces.back().text, "\xE2\x80\x8A");
  EXPECT_EQ(stories.pieces.back().score, -252.0F);
}

TEST(SentencePieceModelTest, RefusesByNameWhatIsNotSupported) {
  const std::string good = testing::write_sentencepiece_model(tiny());
  EXPECT_EQ(SentencePieceTokenizer(good, "good").encode("b").ids, (std::vector<int32_t>{0, 4}));
  std::string pieces;
  for (const Piece& piece : tiny().pieces) pieces += testing::wire_bytes(1, testing::write_piece(piece));
  const std::string trainer = testing::wire_bytes(2, testing::write_trainer(tiny()));
  const std::string normalizer = testing::wire_bytes(3, testing::write_normalizer(tiny()));

  expect_refused(good + testing::wire_bytes(2, testing::wire_varint(3, 1)), "model_type 1 (unigram) is not supported");
  expect_refused(good + testing::wire_bytes(2, testing::wire_varint(3, 4)), "model_type 4 (char) is not supported");
  expect_refused(pieces + testing::wire_bytes(2, "") + normalizer, "model_type 1 (unigram)");
  expect_refused(good + testing::wire_bytes(2, testing::wire_varint(3, 2) + testing::wire_varint(24, 1)),
                 "treat_whitespace_as_suffix");
  expect_refused(
      pieces + trainer + testing::wire_bytes(3, testing::wire_bytes(1, "nmt_nfkc") + testing::wire_bytes(2, "table")),
      "'nmt_nfkc' (precompiled_charsmap)");
  expect_refused(pieces + trainer + testing::wire_bytes(3, testing::wire_varint(5, 0)), "escape_whitespaces");
  expect_refused(good + testing::wire_bytes(5, testing::wire_bytes(2, "table")), "denormalizer_spec");
  expect_refused(pieces + normalizer, "no trainer_spec");
  expect_refused(pieces + trainer, "no normalizer_spec");
  expect_refused("", "holds no pieces");
}

TEST(SentencePieceModelTest, RefusesPiecesThatContradictTheFormat) {
  const auto expect = [](const std::string& words, const std::function<void(SentencePieceModel&)>& change) {
    SentencePieceModel model = tiny();
    change(model);
    expect_refused(testing::write_sentencepiece_model(model), words);
  };
  expect("'a' stands twice", [](auto& model) { model.pieces.push_back(model.pieces[3]); });
  expect("a piece is empty", [](auto& model) { model.pieces[3].text = ""; });
  expect("a piece is not UTF-8", [](auto& model) { model.pieces[3].text = "\xFF"; });
  expect("has the score nan", [](auto& model) { model.pieces[3].score = std::nanf(""); });
  expect("unknown type 9", [](auto& model) { model.pieces[3].type = static_cast<PieceType>(9); });
  expect("unk_id 3 is not the unknown piece", [](auto& model) { model.unk_id = 3; });
  expect("special id 6 is outside", [](auto& model) { model.eos_id = 6; });
  expect("although byte_fallback is off", [](auto& model) {
    model.pieces.push_back({"<0x00>", 0, PieceType::kByte, 0});
  });
  expect("'<0xag>' is not one of", [](auto& model) { model.pieces.push_back({"<0xag>", 0, PieceType::kByte, 0}); });
  expect("there are 1", [](auto& model) {
    model.byte_fallback = true;
    for (int i = 0; i < 256; ++i) model.pieces.push_back({"<0x0A>", 0, PieceType::kByte, 0});
  });
}

TEST(SentencePieceModelTest, EveryCutOfARealFileIsRefused) {
  int64_t refused = 0;
  for (const fs::path& file : {kModels[0], kModels[1]}) {
    const std::string whole = read_file(file);
    for (size_t size = 0; size < whole.size(); ++size, ++refused) {
      EXPECT_THROW(parse_sentencepiece_model(std::string_view(whole).substr(0, size), "cut"), InvalidArgument)
          << file << " cut at " << size;
    }
  }
  const std::string whole = read_file(kModels[2]);
  for (size_t size = whole.size() - 500; size < whole.size(); ++size, ++refused) {
    EXPECT_THROW(parse_sentencepiece_model(std::string_view(whole).substr(0, size), "cut"), InvalidArgument)
        << "base-7m cut at " << size;
  }
  std::cout << refused << " cut files refused\n";
}

TEST(SentencePieceModelTest, DamagedBytesAreRefusedOrHarmless) {
  int refused = 0, loaded = 0;
  CounterRng rng(1, kStreamTest);
  for (const fs::path& file : kModels) {
    const std::string whole = read_file(file);
    const int attempts = whole.size() > 20000 ? 300 : 3000;
    for (int i = 0; i < attempts; ++i) {
      std::string bytes = whole;
      const uint64_t flips = 1 + rng.below(4);
      for (uint64_t flip = 0; flip < flips; ++flip) bytes[rng.below(bytes.size())] = static_cast<char>(rng.next_u32());
      try {
        const SentencePieceTokenizer tokenizer(bytes, "damaged");
        tokenizer.decode(tokenizer.encode("Once upon a  time \xF0\x9F\xA6\x99 <s>\n").ids);
        ++loaded;
      } catch (const InvalidArgument&) {
        ++refused;
      }
    }
  }
  std::cout << refused << " damaged files refused, " << loaded << " still readable, seed 1\n";
  EXPECT_GT(refused, 1000);
  EXPECT_GT(loaded, 100);
}

}  // namespace
}  // namespace moe
