#include "data/data_loader.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "common/file_io.h"
#include "common/rng.h"
#include "data/packing.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

TEST(PackingTest, FitsEverySampleOnceAndFillsRows) {
  CounterRng rng(3, kStreamTest);
  std::vector<int64_t> lengths;
  for (int i = 0; i < 4096; ++i) lengths.push_back(static_cast<int64_t>(1 + rng.below(300)));
  const auto rows = pack_first_fit_decreasing(lengths, 512);
  std::vector<int> uses(lengths.size(), 0);
  for (const auto& row : rows) {
    int64_t filled = 0;
    for (const int64_t sample : row) {
      ++uses[sample];
      filled += lengths[sample];
    }
    EXPECT_LE(filled, 512);
  }
  for (const int count : uses) EXPECT_EQ(count, 1);
  const double fill = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})) / (512.0 * static_cast<double>(rows.size()));
  EXPECT_GT(fill, 0.99);
}

class DataLoaderTest : public ::testing::Test {
 protected:
  /// Documents of ids: document d of a file is d + 10 repeated, so that tokens tell where they come from.
  DataFile ids_file(const std::string& name, int documents, int length, double weight = 1) {
    std::string lines;
    for (int d = 0; d < documents; ++d) {
      lines += "{\"ids\": [";
      for (int i = 0; i < length; ++i) lines += (i == 0 ? "" : ", ") + std::to_string(10 + d);
      lines += "]}\n";
    }
    write_file_atomically(folder_ / name, lines);
    return {(folder_ / name).string(), weight, name, 0};
  }
  PackingOptions options(int64_t length, bool shuffle) {
    PackingOptions made;
    made.sequence_length = length;
    made.shuffle = shuffle;
    made.vocab_size = 5000;
    made.seed = 5;
    return made;
  }
  testing::TempDir folder_;
};

TEST_F(DataLoaderTest, ARowIsTheSameHoweverItIsAskedFor) {
  const DataFile file = ids_file("a", 500, 20);
  DataLoader forward({file}, nullptr, options(64, true)), backward({file}, nullptr, options(64, true));
  std::vector<PackedBatch> seen;
  for (int64_t row = 0; row < 300; ++row) seen.push_back(forward.batch(row, 1));
  for (int64_t row = 299; row >= 0; --row) {
    const PackedBatch batch = backward.batch(row, 1);
    EXPECT_TRUE(batch.tokens_T.equal(seen[row].tokens_T));
    EXPECT_EQ(batch.cu_seqlens, seen[row].cu_seqlens);
  }
  const PackedBatch both = forward.batch(10, 2);
  EXPECT_TRUE(both.tokens_T.equal(at::cat({seen[10].tokens_T, seen[11].tokens_T})));
  DataLoader other({file}, nullptr, [&] {
    PackingOptions changed = options(64, true);
    changed.seed = 6;
    return changed;
  }());
  EXPECT_FALSE(other.batch(0, 4).tokens_T.equal(forward.batch(0, 4).tokens_T));
  EXPECT_NE(other.fingerprint(), forward.fingerprint());
}

TEST_F(DataLoaderTest, EveryTokenOfEveryDocumentIsATargetOnceInAPass) {
  // Longer than a row: cut into pieces, whose labels run on.
  DataLoader loader({ids_file("a", 7, 150)}, nullptr, options(64, false));
  std::map<int64_t, int64_t> targets;
  for (int64_t row = 0; row < loader.rows(); ++row) {
    const PackedBatch batch = loader.batch(row, 1);
    EXPECT_LE(batch.tokens_T.numel(), 64);
    for (size_t sample = 0; sample + 1 < batch.cu_seqlens.size(); ++sample) {
      for (int64_t t = batch.cu_seqlens[sample]; t < batch.cu_seqlens[sample + 1]; ++t) {
        EXPECT_EQ(batch.positions_T[t].item<int64_t>(), t - batch.cu_seqlens[sample]);
        EXPECT_EQ(batch.labels_T[t].item<int64_t>(), batch.tokens_T[t].item<int64_t>()) << "a label from another document";
        ++targets[batch.labels_T[t].item<int64_t>()];
      }
    }
  }
  ASSERT_EQ(targets.size(), 7U);
  for (const auto& [token, count] : targets) EXPECT_EQ(count, 149);
  EXPECT_EQ(loader.target_tokens(0, loader.rows()), 7 * 149);
}

TEST_F(DataLoaderTest, SharesOfTokensFollowTheWeights) {
  DataLoader loader({ids_file("a", 100, 11, 3), ids_file("b", 100, 41, 1)}, nullptr, options(64, true));
  std::map<std::string, int64_t> tokens;
  for (int64_t row = 0; row < 788; ++row) {
    const PackedBatch batch = loader.batch(row, 1);
    for (size_t s = 0; s < batch.domains.size(); ++s) tokens[loader.domain_names()[batch.domains[s]]] += batch.cu_seqlens[s + 1] - batch.cu_seqlens[s];
  }
  EXPECT_NEAR(static_cast<double>(tokens["a"]) / static_cast<double>(tokens["a"] + tokens["b"]), 0.75, 0.02);
}

TEST_F(DataLoaderTest, ChatRowsAreNearlyFull) {
  const std::string chats = std::string(MOE_SOURCE_DIR) + "/examples/data/maths.train.jsonl";
  DataLoader loader({{chats, 1, "maths", 0}}, Tokenizer::from_directory(std::string(MOE_SOURCE_DIR) + "/examples/base-7m"), options(512, true));
  const int64_t rows = 300;
  const double fill = static_cast<double>(loader.tokens(0, rows)) / (512.0 * static_cast<double>(rows));
  std::cout << loader.summary() << "\n";
  EXPECT_GT(fill, 0.97);
}

}  // namespace
}  // namespace moe
