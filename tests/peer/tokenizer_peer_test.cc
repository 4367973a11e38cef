// Ids, offsets and decoded text against PyPI tokenizers: 40,000 fuzzed strings and 1 MB of text (in the full run
// 200,000 and 10 MB) for a tokenizer of each family and for SmolLM2's own; 40,000 for variants of their pipelines. The
// same against PyPI sentencepiece for three real models, and fewer for models written by the test that reach the
// settings which those three do not use. Nearly all of the time is the oracles'.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "common/file_io.h"
#include "common/rng.h"
#include "testing/full_run.h"
#include "testing/oracle_vectors.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/sentencepiece_writer.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
const fs::path kRoot = testing::source_dir();

/// How much a tokenizer is compared on.
const char* strings() {
  return testing::sized("40000", "200000");
}
const char* text_bytes() {
  return testing::sized("1000000", "10000000");
}
int64_t least_encodings() {
  return testing::sized<int64_t>(48000, 240000);
}

/// Has the oracle tokenise fuzzed strings and `text_bytes` of the example data, and compares.
testing::OracleComparison compare_with_oracle(const std::string& script, const fs::path& model,
                                              const std::string& strings, const std::string& text_bytes) {
  const testing::TempDir folder;
  std::vector<std::string> command{testing::peer_python(),
                                   kRoot / "tests/peer" / script,
                                   *Tokenizer::file_in(model),
                                   folder / "vectors",
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
  if (oracle.exit_code != 0) return {};
  return testing::compare_with_oracle_file(*Tokenizer::from_directory(model), folder / "vectors");
}

void print(const std::string& name, const testing::OracleComparison& result) {
  std::cout << name << ": " << result.encodings << " encodings (fuzz seed 20261124; " << result.text_bytes
            << " bytes), " << result.decodings << " decodings, " << result.differences << " differences\n";
}

template <typename Base>
class NeedsOracle : public Base {
 protected:
  void SetUp() override {
    if (!fs::exists(testing::peer_python()))
      GTEST_SKIP() << "no " << testing::peer_python() << "; run: bash deploy/install_deps.sh --peers";
  }
};

class TokenizerPeerTest : public NeedsOracle<::testing::TestWithParam<std::string>> {};

TEST_P(TokenizerPeerTest, NoDifference) {
  const testing::OracleComparison result =
      compare_with_oracle("sentencepiece_oracle.py", kRoot / GetParam(), strings(), text_bytes());
  print(GetParam(), result);
  EXPECT_GE(result.encodings, testing::sized<int64_t>(40000, 200000));
  EXPECT_EQ(result.differences, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerPeerTest,
                         ::testing::Values("examples/base-7m", "tests/testing/fixtures/stories260k",
                                           "tests/testing/fixtures/babyllama-105"),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

class TokenizerSettingsPeerTest : public NeedsOracle<::testing::TestWithParam<std::string>> {};

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
  const testing::OracleComparison result =
      compare_with_oracle("sentencepiece_oracle.py", folder.path(), "5000", "300000");
  print(name, result);
  EXPECT_GE(result.encodings, 5000);
  EXPECT_EQ(result.differences, 0);
}

INSTANTIATE_TEST_SUITE_P(Settings, TokenizerSettingsPeerTest,
                         ::testing::Values("Unused", "UserDefined", "UserDefinedCollapse", "UnusedUserDefinedNoPrefix",
                                           "CollapseNoPrefix", "NoBytes", "UnusedUserDefinedNoBytesCollapse", "Ties"),
                         [](const auto& test) { return test.param; });

struct Family {
  std::string name;
  bool is_variant = false;
};

class FamilyPeerTest : public NeedsOracle<::testing::TestWithParam<Family>> {};

TEST_P(FamilyPeerTest, NoDifference) {
  const auto& [name, is_variant] = GetParam();
  const testing::OracleComparison result =
      compare_with_oracle("tokenizers_oracle.py", kRoot / "tests/testing/fixtures/tokenizers" / name,
                          is_variant ? "40000" : strings(), is_variant ? "1000000" : text_bytes());
  print(name, result);
  EXPECT_GE(result.encodings, is_variant ? 48000 : least_encodings());
  EXPECT_EQ(result.differences, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyPeerTest,
                         ::testing::Values(Family{"llama2"}, Family{"llama3"}, Family{"qwen2"}, Family{"phi2"},
                                           Family{"smollm2"}, Family{"llama2_first", true},
                                           Family{"metaspace_always", true}, Family{"metaspace_never", true},
                                           Family{"gpt2_prefix", true}),
                         [](const auto& test) { return test.param.name; });

class SmolLm2PeerTest : public NeedsOracle<::testing::Test> {};

TEST_F(SmolLm2PeerTest, NoDifference) {
  const fs::path model = testing::smollm2_model();
  if (!fs::exists(model / "tokenizer.json"))
    GTEST_SKIP() << "SmolLM2-135M-Instruct is not in " << model << "; run: bash deploy/install_deps.sh --peers";
  const testing::OracleComparison result = compare_with_oracle("tokenizers_oracle.py", model, strings(), text_bytes());
  print("SmolLM2-135M-Instruct", result);
  EXPECT_GE(result.encodings, least_encodings());
  EXPECT_EQ(result.differences, 0);
}

}  // namespace
}  // namespace moe
