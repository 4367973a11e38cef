// kill -9 of one rank while layers are reconstructed: nothing is left half-written, and the same command again takes
// the layers that were done and makes the bytes of a conversion that was never stopped, also with another number of
// ranks.

#include <gtest/gtest.h>

#include <filesystem>
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
name: reconstructed
inputs: {dense: {path: examples/base-7m}}
stages:
  - name: convert
    convert:
      input: dense
      ffn: {method: independent_random, experts: 8, top_k: 2}
      reconstruction: {steps: 40, batch_tokens: 512, learning_rate: 3.0e-4}
      calibration: {tokens: 2048, data: [{path: examples/data/books.train.jsonl}]}
)";

class ReconstructionKillTest : public ::testing::Test {
 protected:
  void SetUp() override { write_file_atomically(folder_ / "p.yaml", kPipeline); }

  testing::ProcessResult run(const fs::path& out, int ranks) const {
    return testing::run_conversion(folder_ / "p.yaml", out, ranks);
  }

  /// Layers that are kept, those that are being written apart.
  static size_t kept(const fs::path& out) {
    size_t count = 0;
    std::error_code missing;
    for (const auto& entry : fs::recursive_directory_iterator(out / "convert/reconstruction", missing))
      count += entry.path().extension() == ".safetensors";
    return count;
  }

  testing::TempDir folder_;
};

TEST_F(ReconstructionKillTest, GoesOnAtTheNextLayerToTheSameBytes) {
  const fs::path undisturbed = folder_ / "undisturbed", out = folder_ / "killed";
  const testing::ProcessResult whole = run(undisturbed, kRanks);
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_FALSE(fs::exists(undisturbed / "convert/reconstruction"));

  testing::run_and_kill(folder_ / "p.yaml", out, kRanks, [&] { return kept(out) > 0; });
  if (HasFatalFailure()) return;
  const size_t before = kept(out);
  EXPECT_GT(before, 0U);
  EXPECT_LT(before, 6U) << "of six layers some are to be trained";

  const testing::ProcessResult again = run(out, 1);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  size_t reused = 0;
  for (size_t at = 0; (at = again.err.find("event=reconstructed_layer_reused", at)) != std::string::npos; ++at)
    ++reused;
  EXPECT_EQ(reused, before);
  EXPECT_GT(made(out).size(), 3U);
  EXPECT_EQ(made(out), made(undisturbed));
  EXPECT_EQ(kept(out), 0U);
}

}  // namespace
}  // namespace moe
