// Ids, offsets and decoded text against PyPI sentencepiece on 20,000 fuzzed strings and 2 MB of text, for each of three tokenizers.

#include <gtest/gtest.h>

#include <iostream>

#include "testing/peer_python.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"
#include "testing/token_vectors.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

class TokenizerPeerTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TokenizerPeerTest, NoDifference) {
  const fs::path python = testing::peer_python();
  if (!fs::exists(python)) GTEST_SKIP() << "no " << python << "; run: bash deploy/install_deps.sh --peers";
  const fs::path root = MOE_SOURCE_DIR;
  const fs::path model = root / GetParam();
  const testing::TempDir folder;
  std::vector<std::string> command{python, root / "tests/peer/sentencepiece_oracle.py", model / "tokenizer.model", folder / "vectors.jsonl", "--text"};
  for (const char* name : {"books", "general", "maths", "code"}) command.push_back(root / "examples/data" / (std::string(name) + ".train.jsonl"));
  const testing::ProcessResult oracle = testing::run_process(command);
  ASSERT_EQ(oracle.exit_code, 0) << oracle.err;
  const int64_t compared = testing::compare_with_vectors(*Tokenizer::from_directory(model), folder / "vectors.jsonl");
  EXPECT_GT(compared, 20000);
  std::cout << GetParam() << ": " << compared << " strings (20000 fuzzed, seed 20261124, and 2 MB of text), 0 differences expected\n";
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerPeerTest,
                         ::testing::Values("examples/base-7m", "tests/testing/fixtures/stories260k", "tests/testing/fixtures/babyllama-105"),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

}  // namespace
}  // namespace moe
