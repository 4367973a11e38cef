#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <mutex>

#include "common/error.h"
#include "common/file_io.h"
#include "parallel/dispatchers.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

const ModelConfig kMoe = testing::tiny_moe_config(/*num_experts=*/4, /*top_k=*/2, /*expert_width=*/12);

class PerplexityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_random_documents(folder_ / "a.jsonl", 20, 3, 50, 61, 1);
    testing::write_random_documents(folder_ / "b.jsonl", 3, 2, 10, 61, 2);  // one row: ranks without any
  }
  std::vector<DataFile> files() const { return {{folder_ / "a.jsonl", 1, "a", 0}, {folder_ / "b.jsonl", 1, "b", 0}}; }
  static HeldOutOptions options(int64_t max_tokens = 0) {
    HeldOutOptions made;
    made.packing.sequence_length = 24;
    made.packing.vocab_size = 61;
    made.max_tokens = max_tokens;
    return made;
  }

  TokenReport measure(const ModelConfig& config, int ranks, int expert_parallel, int64_t max_tokens = 0) const {
    TokenReport result;
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      Mesh mesh(world, expert_parallel);
      const std::unique_ptr<TokenDispatcher> dispatcher = make_dispatcher(mesh);
      Decoder decoder(config, at::kDouble, mesh.owned_experts(config));
      testing::fill_random(decoder, 9);
      HeldOutData data(files(), nullptr, options(max_tokens));
      int64_t reported = 0;
      const TokenReport mine = measure_loss(decoder, *dispatcher, data, mesh, [&](int64_t done, int64_t rows) {
        EXPECT_GT(done, reported);
        reported = done;
        EXPECT_EQ(rows, data.rows());
      });
      EXPECT_EQ(reported, data.rows());
      const std::lock_guard<std::mutex> lock(mutex);
      if (!result.domains.empty()) {
        EXPECT_EQ(result.total().sum, mine.total().sum) << "ranks report different losses";
        EXPECT_EQ(result.expert_load, mine.expert_load);
      }
      result = mine;
    });
    return result;
  }

  testing::TempDir folder_;
};

TEST_F(PerplexityTest, IsTheMeanOverDocumentsReadAlone) {
  // Every document by itself, cut where a row is full, from the logits.
  Decoder decoder(kMoe, at::kDouble, {0, 4});
  testing::fill_random(decoder, 9);
  LocalDispatcher dispatcher;
  const at::NoGradGuard no_grad;
  const TokenReport report = measure(kMoe, 1, 1);
  for (const char* name : {"a", "b"}) {
    double loss = 0;
    int64_t tokens = 0;
    std::istringstream lines(read_file(folder_ / (std::string(name) + ".jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const auto ids = nlohmann::json::parse(line)["ids"].get<std::vector<int64_t>>();
      for (size_t begin = 0; begin + 1 < ids.size(); begin += 24) {
        const size_t end = std::min(begin + 24, ids.size() - 1);
        const std::vector<int64_t> inputs(ids.begin() + begin, ids.begin() + end);
        const auto length = static_cast<int64_t>(inputs.size());
        const DecoderOutput out = decoder.forward({at::tensor(inputs, at::kLong), {0, length}}, dispatcher);
        const at::Tensor log_p = at::log_softmax(decoder.logits(out.hidden_TD), 1);
        for (int64_t t = 0; t < length; ++t, ++tokens) loss -= log_p[t][ids[begin + t + 1]].item<double>();
      }
    }
    EXPECT_EQ(report.domains.at(name).tokens, tokens);
    EXPECT_NEAR(report.domains.at(name).sum / loss, 1, 1e-12);
  }
  EXPECT_EQ(report.domains.size(), 2U);
  EXPECT_EQ(report.total().tokens, report.domains.at("a").tokens + report.domains.at("b").tokens);
}

TEST_F(PerplexityTest, SameForEveryLayoutOfRanks) {
  const TokenReport single = measure(kMoe, 1, 1);
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, expert parallelism " + std::to_string(expert_parallel));
    const TokenReport spread = measure(kMoe, ranks, expert_parallel);
    EXPECT_EQ(spread.expert_load, single.expert_load);
    for (const auto& [name, sum] : single.domains) {
      EXPECT_EQ(spread.domains.at(name).tokens, sum.tokens);
      EXPECT_NEAR(spread.domains.at(name).sum / sum.sum, 1, 1e-12);
    }
  }
}

TEST_F(PerplexityTest, LoadCountsEveryTokenTopKTimesInEveryLayer) {
  const TokenReport report = measure(kMoe, 2, 2);
  ASSERT_EQ(report.expert_load.size(), 2U);
  for (const auto& layer : report.expert_load) {
    int64_t routed = 0;
    for (const int64_t count : layer) routed += count;
    EXPECT_EQ(routed, 2 * report.total().tokens) << "each input of an ids document has a target";
  }
  EXPECT_TRUE(measure(testing::tiny_config(), 2, 1).expert_load.empty());
}

TEST_F(PerplexityTest, LoadOfAttentionsExpertsIsToldApart) {
  const ModelConfig config = testing::with_attention_experts(testing::tiny_config(), 4, 2, 1);
  const TokenReport single = measure(config, 1, 1), spread = measure(config, 4, 4);
  EXPECT_TRUE(single.expert_load.empty()) << "its FFNs are dense";
  ASSERT_EQ(single.attention_expert_load.size(), 2U);
  for (const auto& layer : single.attention_expert_load) {
    ASSERT_EQ(layer.size(), 3U) << "without the one that is always on";
    EXPECT_EQ(layer[0] + layer[1] + layer[2], 2 * single.total().tokens);
  }
  EXPECT_EQ(spread.attention_expert_load, single.attention_expert_load);
  EXPECT_NEAR(spread.total().sum / single.total().sum, 1, 1e-12);
  EXPECT_TRUE(measure(kMoe, 1, 1).attention_expert_load.empty());
}

TEST_F(PerplexityTest, MaxTokensTakesTheFirstRowsOfEachFile) {
  const TokenReport all = measure(kMoe, 1, 1), some = measure(kMoe, 1, 1, 100);
  EXPECT_LT(some.domains.at("a").tokens, all.domains.at("a").tokens);
  EXPECT_GE(some.domains.at("a").tokens, 100);
  EXPECT_LT(some.domains.at("a").tokens, 100 + 24);
  EXPECT_EQ(some.domains.at("b").tokens, all.domains.at("b").tokens) << "a short file is read whole";
}

TEST_F(PerplexityTest, FilesOfOneDomainAreSummed) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  Mesh mesh(*self, 1);
  LocalDispatcher dispatcher;
  Decoder decoder(kMoe, at::kDouble, {0, 4});
  testing::fill_random(decoder, 9);
  std::vector<DataFile> same = files();
  for (DataFile& file : same) file.domain = "both";
  HeldOutData data(same, nullptr, options());
  const TokenReport report = measure_loss(decoder, dispatcher, data, mesh);
  ASSERT_EQ(report.domains.size(), 1U);
  EXPECT_NEAR(report.domains.at("both").sum, measure(kMoe, 1, 1).total().sum, 1e-9);
}

TEST_F(PerplexityTest, AFileWithoutTargetsIsAnError) {
  write_file_atomically(folder_ / "short.jsonl", "{\"ids\": [5]}\n");
  EXPECT_THROW(HeldOutData({{folder_ / "short.jsonl", 1, "short", 0}}, nullptr, options()), InvalidArgument);
}

}  // namespace
}  // namespace moe
