#include "data/data_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "testing/message_of.h"
#include "testing/paths.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
const std::string kRoot = testing::source_dir();

class DataLoaderTest : public ::testing::Test {
 protected:
  /// Document d of the given lengths holds the ids 1000 d, 1000 d + 1, ...: a token tells its document and its place.
  DataFile counting_file(const std::string& name, const std::vector<int64_t>& lengths, double weight = 1) {
    std::string lines;
    for (size_t d = 0; d < lengths.size(); ++d) {
      lines += "{\"ids\": [";
      for (int64_t i = 0; i < lengths[d]; ++i)
        lines += (i == 0 ? "" : ", ") + std::to_string(1000 * d + static_cast<size_t>(i));
      lines += "]}\n";
    }
    write_file_atomically(folder_ / name, lines);
    return {(folder_ / name).string(), weight, name, 0};
  }
  std::vector<int64_t> random_lengths(int64_t count, int64_t shortest, int64_t longest, uint64_t seed) {
    CounterRng rng(seed, kStreamTest);
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < count; ++i)
      lengths.push_back(shortest + static_cast<int64_t>(rng.below(longest - shortest + 1)));
    return lengths;
  }
  static PackingOptions options(int64_t length, bool shuffle) {
    PackingOptions made;
    made.sequence_length = length;
    made.shuffle = shuffle;
    made.vocab_size = 1000000000;
    made.seed = 5;
    return made;
  }
  /// Calls visit(token, label) for each input of the rows and checks what holds for every batch.
  static void for_each_input(const PackedBatch& batch, const std::function<void(int64_t, int64_t)>& visit) {
    const int64_t* tokens = batch.tokens_T.const_data_ptr<int64_t>();
    const int64_t* labels = batch.labels_T.const_data_ptr<int64_t>();
    ASSERT_EQ(batch.cu_seqlens.front(), 0);
    ASSERT_EQ(batch.cu_seqlens.back(), batch.tokens_T.numel());
    ASSERT_EQ(batch.domains.size() + 1, batch.cu_seqlens.size());
    for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
      ASSERT_LT(batch.cu_seqlens[s], batch.cu_seqlens[s + 1]);
      for (int64_t t = batch.cu_seqlens[s]; t < batch.cu_seqlens[s + 1]; ++t) {
        if (t > batch.cu_seqlens[s] && labels[t - 1] != -100) {
          ASSERT_EQ(labels[t - 1], tokens[t]);
        }
        visit(tokens[t], labels[t]);
      }
    }
  }
  testing::TempDir folder_;
};

TEST_F(DataLoaderTest, ARowIsTheSameHoweverItIsAskedFor) {
  const DataFile file = counting_file("a", random_lengths(500, 2, 40, 1));
  DataLoader forward({file}, nullptr, options(64, true)), backward({file}, nullptr, options(64, true));
  std::vector<PackedBatch> seen;
  for (int64_t row = 0; row < 400; ++row) seen.push_back(forward.batch(row, 1));
  for (int64_t row = 399; row >= 0; --row) {
    const PackedBatch batch = backward.batch(row, 1);
    ASSERT_TRUE(batch.tokens_T.equal(seen[row].tokens_T));
    ASSERT_TRUE(batch.labels_T.equal(seen[row].labels_T));
    ASSERT_EQ(batch.cu_seqlens, seen[row].cu_seqlens);
  }
  // 48 rows of a global batch, as 1, 2, 3, 4 and 6 ranks would take them.
  const PackedBatch all = forward.batch(100, 48);
  for (const int64_t ranks : {2, 3, 4, 6}) {
    std::vector<at::Tensor> tokens;
    int64_t targets = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      tokens.push_back(backward.batch(100 + rank * 48 / ranks, 48 / ranks).tokens_T);
      targets += backward.target_tokens(100 + rank * 48 / ranks, 48 / ranks);
    }
    EXPECT_TRUE(at::cat(tokens).equal(all.tokens_T)) << ranks << " ranks";
    EXPECT_EQ(targets, forward.target_tokens(100, 48));
  }
  EXPECT_EQ(forward.batch(3, 0).tokens_T.numel(), 0);
}

/// Everything of rows [0, rows), `step` at a time.
std::string digest_of_rows(DataLoader& loader, int64_t rows, int64_t step) {
  std::string bytes;
  for (int64_t first = 0; first < rows; first += step) {
    const PackedBatch batch = loader.batch(first, step);
    std::vector<at::Tensor> positions;
    for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s)
      positions.push_back(at::arange(batch.cu_seqlens[s + 1] - batch.cu_seqlens[s], at::kLong));
    for (const at::Tensor& t : {batch.tokens_T, batch.labels_T, at::cat(positions)}) {
      bytes += xxh3_hex({static_cast<const char*>(t.const_data_ptr()), static_cast<size_t>(t.nbytes())});
    }
    for (const int64_t boundary : batch.cu_seqlens) bytes += std::to_string(boundary) + " ";
    for (const int32_t domain : batch.domains) bytes += std::to_string(domain) + " ";
  }
  return xxh3_hex(bytes);
}

TEST_F(DataLoaderTest, RowsAreThoseOfTheFirstVersion) {
  // Three files of other lengths and weights; 5,000 rows are a dozen windows and several epochs.
  const std::vector<DataFile> files{counting_file("a", random_lengths(900, 2, 90, 1), 3),
                                    counting_file("b", random_lengths(700, 5, 200, 2), 1),
                                    counting_file("c", random_lengths(50, 300, 700, 3), 0.5)};
  DataLoader training(files, nullptr, options(128, true)), one_pass(files, nullptr, options(128, false));
  EXPECT_EQ(digest_of_rows(training, 5000, 40), "5fdaa4e117b2b1ea29c613aeb00340b9");
  EXPECT_EQ(one_pass.rows(), 1042);
  EXPECT_EQ(digest_of_rows(one_pass, one_pass.rows(), 1), "9c8c76c739f85ebda6b8d52b22266bda");
}

TEST_F(DataLoaderTest, WhatIsHeldDoesNotGrowWithTheRowsThatWereGiven) {
  const DataFile file = counting_file("a", random_lengths(900, 2, 90, 1));
  DataLoader released({file}, nullptr, options(128, true)), kept({file}, nullptr, options(128, true));
  int64_t most = 0, of_a_window = released.held_rows();
  for (int64_t first = 0; first < 12000; first += 30) {
    released.release_before(first);
    ASSERT_TRUE(released.batch(first, 30).tokens_T.equal(kept.batch(first, 30).tokens_T)) << first;
    most = std::max(most, released.held_rows());
  }
  // A batch may lie across two windows, whose sizes differ by a few rows.
  EXPECT_LT(most, 2.2 * static_cast<double>(of_a_window));
  EXPECT_GT(kept.held_rows(), 6 * of_a_window) << "nothing was released here";
  // What was released comes again, the same, and is not kept from then on.
  EXPECT_TRUE(released.batch(7, 100).tokens_T.equal(kept.batch(7, 100).tokens_T));
  EXPECT_TRUE(released.batch(11990, 20).tokens_T.equal(kept.batch(11990, 20).tokens_T));
}

TEST_F(DataLoaderTest, APlaceNeedsNothingThatCameBefore) {
  const std::vector<DataFile> files{counting_file("a", random_lengths(900, 2, 90, 1), 3),
                                    counting_file("b", random_lengths(70, 5, 200, 2), 1)};
  DataLoader whole(files, nullptr, options(128, true));
  const int64_t window = whole.held_rows();
  for (const int64_t row : {int64_t{0}, int64_t{1}, window - 1, window, window + 1, 9 * window}) {
    DataLoader resumed(files, nullptr, options(128, true));
    resumed.go_to(whole.place_of(row));
    EXPECT_EQ(resumed.place_of(row), whole.place_of(row));
    EXPECT_TRUE(resumed.batch(row, 50).tokens_T.equal(whole.batch(row, 50).tokens_T)) << row;
    EXPECT_LT(resumed.held_rows(), 2.2 * static_cast<double>(window)) << row;
    EXPECT_TRUE(resumed.batch(0, 3).tokens_T.equal(whole.batch(0, 3).tokens_T)) << "what came before can be had";
  }
  DataLoader other({files[0]}, nullptr, options(128, true));
  const std::string far = whole.place_of(9 * window);
  for (const std::string& bad :
       {far, std::string(), std::string("1"), far + " 1", std::string("0 0 0 0 901"), std::string("0 0 0 0 -1")}) {
    EXPECT_THROW(other.go_to(bad), InvalidArgument) << bad;
  }
}

TEST_F(DataLoaderTest, TheSummaryTellsRows) {
  const DataFile file = counting_file("a", std::vector<int64_t>(64, 33));  // 32 inputs each
  EXPECT_THAT(DataLoader({file}, nullptr, options(64, false)).summary(),
              HasSubstr(" rows_planned=32 fill=1 rows_per_pass=32"));
  // 4,096 samples a window.
  EXPECT_THAT(DataLoader({file}, nullptr, options(64, true)).summary(),
              HasSubstr(" rows_planned=2048 fill=1 rows_per_pass=32"));
  EXPECT_EQ(DataLoader({file}, nullptr, options(64, true)).file_digests(),
            (std::map<std::string, std::string>{{file.path, xxh3_hex_of_file(file.path)}}));
}

TEST_F(DataLoaderTest, TargetAndTokenCountsAreThoseOfTheRows) {
  const std::string chats = kRoot + "/examples/data/maths.valid.jsonl";
  PackingOptions packing = options(256, false);
  packing.long_chats = "split";
  DataLoader loader({{chats, 1, "maths", 0}}, Tokenizer::from_directory(kRoot + "/examples/base-7m"), packing);
  int64_t all_targets = 0, masked = 0;
  for (int64_t row = 0; row < loader.rows(); ++row) {
    const PackedBatch batch = loader.batch(row, 1);
    const int64_t targets = batch.labels_T.ne(-100).sum().item<int64_t>();
    EXPECT_EQ(loader.target_tokens(row, 1), targets);
    EXPECT_EQ(loader.tokens(row, 1), batch.tokens_T.numel());
    EXPECT_LE(batch.tokens_T.numel(), 256);
    for_each_input(batch, [&](int64_t, int64_t label) { masked += label == -100 ? 1 : 0; });
    all_targets += targets;
  }
  EXPECT_EQ(loader.target_tokens(0, loader.rows()), all_targets);
  EXPECT_GT(masked, 0);
}

TEST_F(DataLoaderTest, EveryTokenOfEveryDocumentIsATargetOnceInAPass) {
  const std::vector<int64_t> lengths =
      random_lengths(300, 1, 200, 2);  // many longer than a row, some without any target
  DataLoader loader({counting_file("a", lengths)}, nullptr, options(64, false));
  std::map<int64_t, int> targets;
  for (int64_t row = 0; row < loader.rows(); ++row) {
    for_each_input(loader.batch(row, 1), [&](int64_t token, int64_t label) {
      ASSERT_EQ(label, token + 1) << "a label from elsewhere";
      ++targets[label];
    });
  }
  int64_t expected = 0;
  for (size_t d = 0; d < lengths.size(); ++d) {
    for (int64_t i = 1; i < lengths[d]; ++i, ++expected) ASSERT_EQ(targets[1000 * static_cast<int64_t>(d) + i], 1);
  }
  EXPECT_EQ(static_cast<int64_t>(targets.size()), expected);
  EXPECT_EQ(loader.target_tokens(0, loader.rows()), expected);
}

TEST_F(DataLoaderTest, AnEpochHoldsEachDocumentOnceAndTheNextAnotherOrder) {
  // As many one-sample documents as a window has samples: a window is an epoch.
  DataLoader loader({counting_file("a", std::vector<int64_t>(4096, 9))}, nullptr, options(64, true));
  const int64_t epoch_rows = 4096 / 8;
  std::vector<std::vector<int64_t>> order(2);
  for (int64_t row = 0; row < 2 * epoch_rows; ++row) {
    for_each_input(loader.batch(row, 1), [&](int64_t token, int64_t) {
      if (token % 1000 == 0) order[row / epoch_rows].push_back(token / 1000);
    });
  }
  EXPECT_NE(order[0], order[1]);
  for (std::vector<int64_t>& documents : order) {
    std::sort(documents.begin(), documents.end());
    ASSERT_EQ(documents.size(), 4096U);
    for (int64_t d = 0; d < 4096; ++d) ASSERT_EQ(documents[d], d);
  }
}

TEST_F(DataLoaderTest, SharesOfTokensFollowTheWeights) {
  const std::vector<DataFile> files{counting_file("a", random_lengths(100, 5, 40, 3), 3),
                                    counting_file("b", random_lengths(700, 30, 130, 4), 1),
                                    counting_file("c", random_lengths(50, 2, 20, 5), 0.5)};
  DataLoader loader(files, nullptr, options(128, true));
  std::map<std::string, double> tokens;
  for (int64_t row = 0; row < 2500; ++row) {
    const PackedBatch batch = loader.batch(row, 1);
    for (size_t s = 0; s < batch.domains.size(); ++s) {
      tokens[loader.domain_names()[batch.domains[s]]] +=
          static_cast<double>(batch.cu_seqlens[s + 1] - batch.cu_seqlens[s]);
    }
  }
  const double all = tokens["a"] + tokens["b"] + tokens["c"];
  std::cout << "shares a " << tokens["a"] / all << ", b " << tokens["b"] / all << ", c " << tokens["c"] / all << " of "
            << all << " tokens\n";
  EXPECT_NEAR(tokens["a"] / all, 3 / 4.5, 0.01 * 3 / 4.5);
  EXPECT_NEAR(tokens["b"] / all, 1 / 4.5, 0.01 * 1 / 4.5);
  EXPECT_NEAR(tokens["c"] / all, 0.5 / 4.5, 0.01 * 0.5 / 4.5);
}

TEST_F(DataLoaderTest, ALinesDomainOverridesItsFiles) {
  write_file_atomically(folder_ / "d.jsonl",
                        "{\"ids\": [1, 2, 3]}\n{\"ids\": [4, 5], \"domain\": \"own\"}\n{\"ids\": [6]}\n");
  DataLoader loader({{(folder_ / "d.jsonl").string(), 1, "file", 0}}, nullptr, options(8, false));
  EXPECT_EQ(loader.domain_names(), (std::vector<std::string>{"file", "own"}));
  ASSERT_EQ(loader.rows(), 1);
  EXPECT_EQ(loader.batch(0, 1).domains, (std::vector<int32_t>{0, 1}));
  EXPECT_THAT(loader.summary(), HasSubstr("documents=3 "));
  EXPECT_THAT(loader.summary(), HasSubstr("too_short=1 "));
}

TEST_F(DataLoaderTest, LongChatsAreDroppedTruncatedOrSplit) {
  const auto tokenizer = Tokenizer::from_directory(kRoot + "/examples/base-7m");
  std::string answer;
  for (int i = 0; i < 60; ++i) answer += " word";
  const auto chat = [](const std::string& text) {
    return R"({"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": ")" + text + "\"}]}\n";
  };
  write_file_atomically(folder_ / "c.jsonl", chat("Short.") + chat(answer));
  const auto targets = [&](const std::string& long_chats) {
    PackingOptions packing = options(64, false);
    packing.long_chats = long_chats;
    DataLoader loader({{(folder_ / "c.jsonl").string(), 1, "c", 0}}, tokenizer, packing);
    return std::make_pair(loader.target_tokens(0, loader.rows()), loader.summary());
  };
  const int64_t prompt = 1 + static_cast<int64_t>(tokenizer->encode("### User:\nGo.\n\n### Assistant:\n").ids.size());
  const int64_t whole =
      1 + static_cast<int64_t>(tokenizer->encode("### User:\nGo.\n\n### Assistant:\n" + answer).ids.size());
  const int64_t shorter =
      1 + static_cast<int64_t>(tokenizer->encode("### User:\nGo.\n\n### Assistant:\nShort.").ids.size()) - prompt + 1;
  EXPECT_EQ(targets("drop").first, shorter);
  EXPECT_THAT(targets("drop").second, HasSubstr("chats_dropped=1 "));
  // 64 inputs have 64 labels: tokens 1 to 64, of which those from the prompt's end are supervised.
  EXPECT_EQ(targets("truncate").first, shorter + 64 - prompt + 1);
  EXPECT_THAT(targets("truncate").second, HasSubstr("chats_truncated=1 "));
  EXPECT_EQ(targets("split").first, shorter + whole - prompt + 1);
}

TEST_F(DataLoaderTest, FingerprintChangesWithContentAndOptions) {
  const DataFile file = counting_file("a", {5, 6, 7});
  const auto fingerprint = [&](const std::function<void(DataFile&, PackingOptions&)>& change) {
    DataFile changed = file;
    PackingOptions packing = options(64, true);
    change(changed, packing);
    return DataLoader({changed}, nullptr, packing).fingerprint();
  };
  const std::string same = fingerprint([](auto&, auto&) {});
  EXPECT_EQ(same, fingerprint([](auto&, auto&) {}));
  EXPECT_NE(same, fingerprint([](auto&, auto& packing) { packing.seed = 6; }));
  EXPECT_NE(same, fingerprint([](auto&, auto& packing) { packing.sequence_length = 65; }));
  EXPECT_NE(same, fingerprint([](auto&, auto& packing) { packing.long_chats = "split"; }));
  EXPECT_NE(same, fingerprint([](auto& data, auto&) { data.weight = 2; }));
  EXPECT_NE(same, fingerprint([](auto& data, auto&) { data.max_documents = 2; }));
  EXPECT_NE(same, fingerprint([this](auto& data, auto&) { data.path = counting_file("b", {5, 6, 8}).path; }));
}

TEST_F(DataLoaderTest, OneShuffledPassGivesEachDocumentOfEachFileOnce) {
  PackingOptions packing = options(64, true);
  packing.one_pass = true;
  const std::vector<int64_t> a = random_lengths(40, 2, 40, 1), b = random_lengths(9, 2, 40, 2);
  DataFile second = counting_file("b", b, 7);
  second.max_documents = 5;
  DataLoader loader({counting_file("a", a, 1), second}, nullptr, packing),
      endless({counting_file("a", a, 1), second}, nullptr, options(64, true));
  EXPECT_NE(loader.fingerprint(), endless.fingerprint());
  int64_t expected = 0;
  for (const int64_t length : a) expected += length - 1;
  for (int64_t d = 0; d < 5; ++d) expected += b[d] - 1;
  EXPECT_FALSE(loader.has_row(loader.rows()));
  EXPECT_TRUE(loader.has_row(loader.rows() - 1));
  EXPECT_TRUE(endless.has_row(loader.rows()));
  std::map<std::pair<int32_t, int64_t>, int> seen;
  for (int64_t row = 0; row < loader.rows(); ++row) {
    const PackedBatch batch = loader.batch(row, 1);
    const int64_t* tokens = batch.tokens_T.const_data_ptr<int64_t>();
    for (size_t s = 0; s < batch.domains.size(); ++s) {
      for (int64_t t = batch.cu_seqlens[s]; t < batch.cu_seqlens[s + 1]; ++t) ++seen[{batch.domains[s], tokens[t]}];
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), expected);
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto& entry) { return entry.second == 1; }));
}

TEST_F(DataLoaderTest, RefusesOptionsThatMakeNoSense) {
  const DataFile file = counting_file("a", {5, 6});
  const auto error = [&](const std::function<void(std::vector<DataFile>&, PackingOptions&)>& change) {
    std::vector<DataFile> files{file};
    PackingOptions packing = options(8, true);
    change(files, packing);
    return testing::message_of([&] { DataLoader(files, nullptr, packing); });
  };
  EXPECT_THAT(error([](auto& files, auto&) { files.clear(); }), HasSubstr("no data file"));
  EXPECT_THAT(error([](auto& files, auto&) { files[0].weight = 0; }),
              HasSubstr("a: weight 0 is not a positive number"));
  EXPECT_THAT(error([](auto&, auto& packing) { packing.sequence_length = 0; }), HasSubstr("sequence_length 0"));
  EXPECT_THAT(error([](auto&, auto& packing) { packing.long_chats = "keep"; }),
              HasSubstr("'keep' is unknown; known: drop, truncate, split"));
  EXPECT_THAT(error([this](auto& files, auto&) {
                files[0] = counting_file("b", {1, 1});
              }),
              HasSubstr("b: no document gives a training example"));
}

void expect_full_rows(const std::string& path, int64_t sequence_length) {
  DataLoader loader({{path, 1, "chat", 0}}, Tokenizer::from_directory(kRoot + "/examples/base-7m"), [&] {
    PackingOptions packing;
    packing.sequence_length = sequence_length;
    packing.vocab_size = 4096;
    return packing;
  }());
  loader.target_tokens(0, 1);  // plans the first window
  const std::string summary = loader.summary();
  std::cout << summary << "\n";
  EXPECT_GE(std::stod(summary.substr(summary.find("fill=") + 5)), 0.97);
}

TEST_F(DataLoaderTest, RowsOfTheExampleAreNearlyFull) {
  expect_full_rows(kRoot + "/examples/data/maths.train.jsonl", 512);
}

TEST_F(DataLoaderTest, RowsOfLongChatsAreNearlyFull) {
  const std::string path = kRoot + "/../shared/data/sft/chat.train.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data folder: " << path;
  // Rows of 512 cannot be full: most chats take more than half of one.
  expect_full_rows(path, 2048);
}

}  // namespace
}  // namespace moe
