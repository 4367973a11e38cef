// Ids, offsets and decoded text against PyPI sentencepiece: 20,000 fuzzed strings and 2 MB of text for each of three
// real tokenizers, and models written by the test that reach the settings which those three do not use.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "common/file_io.h"
#include "common/rng.h"
#include "testing/peer_python.h"
#include "testing/sentencepiece_writer.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"
#include "testing/token_vectors.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
const fs::path kRoot = MOE_SOURCE_DIR;

/// Has the oracle tokenise fuzzed strings and `text_bytes` of the example data, and compares.
testing::VectorComparison compare_with_oracle(const fs::path& model, const std::string& strings,
                                              const std::string& text_bytes) {
  const testing::TempDir folder;
  std::vector<std::string> command{testing::peer_python(),
                                   kRoot / "tests/peer/sentencepiece_oracle.py",
                                   model / "tokenizer.model",
                                   folder / "vectors.jsonl",
                                   "--strings",
                                   strings,
                                   "--text-bytes",
                                   text_bytes,
                                   "--text"};
  for (const char* name : {"books", "general", "maths", "code"}) {
    command.push_back(kRoot / "examples/data" / (std::string(name) + ".train.jsonl"));
  }
  const testing::ProcessResult oracle = testing::run_process(command);
  EXPECT_EQ(oracle.exit_code, 0) << oracle.err;
  return testing::compare_with_vectors(*Tokenizer::from_directory(model), folder / "vectors.jsonl");
}

class TokenizerPeerTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!fs::exists(testing::peer_python()))
      GTEST_SKIP() << "no " << testing::peer_python() << "; run: bash deploy/install_deps.sh --peers";
  }
};

TEST_P(TokenizerPeerTest, NoDifference) {
  const auto [strings, differences] = compare_with_oracle(kRoot / GetParam(), "20000", "2000000");
  std::cout << GetParam() << ": " << strings << " strings (20000 fuzzed, seed 20261124, and 2 MB of text), "
            << differences << " differences\n";
  EXPECT_GT(strings, 20100);
  EXPECT_EQ(differences, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerPeerTest,
                         ::testing::Values("examples/base-7m", "tests/testing/fixtures/stories260k",
                                           "tests/testing/fixtures/babyllama-105"),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

class TokenizerSettingsPeerTest : public TokenizerPeerTest {};

/// base-7m's vocabulary with some pieces marked unused, some user-defined, and the rules of the parameter.
TEST_P(TokenizerSettingsPeerTest, NoDifference) {
  const std::string& name = GetParam();
  const auto says = [&name](const char* word) { return name.find(word) != std::string::npos; };
  SentencePieceModel model =
      parse_sentencepiece_model(read_file(kRoot / "examples/base-7m/tokenizer.model"), "base-7m");
  CounterRng rng(20261124, kStreamTest);
  for (Piece& piece : model.pieces) {
    if (piece.type == PieceType::kNormal && says("Unused") && rng.below(4) == 0) piece.type = PieceType::kUnused;
    if (piece.type == PieceType::kNormal && says("UserDefined") && rng.below(50) == 0)
      piece.type = PieceType::kUserDefined;
    if (piece.type == PieceType::kNormal && says("Ties")) piece.score = static_cast<float>(rng.below(5));
  }
  if (says("UserDefined")) {
    for (const char* text :
         {"foo_bar", "the", "<s", "\xE2\x96\x81\xE2\x96\x81", "\xE4\xBD\xA0\xE5\xA5\xBD", "\n", "x1\xE2\x96\x81"}) {
      const auto same = [text](const Piece& piece) { return piece.text == text; };
      const auto known = std::find_if(model.pieces.begin(), model.pieces.end(), same);
      if (known != model.pieces.end()) known->type = PieceType::kUserDefined;
      if (known == model.pieces.end()) model.pieces.push_back({text, 0, PieceType::kUserDefined, 0});
    }
  }
  model.remove_extra_whitespaces = says("Collapse");
  model.add_dummy_prefix = !says("NoPrefix");
  if (says("NoBytes")) {
    model.byte_fallback = false;
    for (Piece& piece : model.pieces) {
      if (piece.type == PieceType::kByte) piece.type = PieceType::kNormal;
    }
  }
  const testing::TempDir folder;
  write_file_atomically(folder / "tokenizer.model", testing::write_sentencepiece_model(model));
  const auto [strings, differences] = compare_with_oracle(folder.path(), "5000", "300000");
  std::cout << name << ": " << strings << " strings, " << differences << " differences\n";
  EXPECT_GT(strings, 5010);
  EXPECT_EQ(differences, 0);
}

INSTANTIATE_TEST_SUITE_P(Settings, TokenizerSettingsPeerTest,
                         ::testing::Values("Unused", "UserDefined", "UserDefinedCollapse", "UnusedUserDefinedNoPrefix",
                                           "CollapseNoPrefix", "NoBytes", "UnusedUserDefinedNoBytesCollapse", "Ties"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace moe
