// Conversions of attention into experts: what is written, what it computes, what is fitted and what is said of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/attention_fixture.h"
#include "convert/conversion_fixture.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::add_text;
using testing::attention_spec;
using testing::convert;
using ::testing::ElementsAre;
using testing::set_fixed_scale;

std::vector<std::vector<int32_t>> heads_of(const fs::path& model, const std::string& name) {
  const at::Tensor heads = SafetensorsFile(model / "conversion.safetensors").tensor(name);
  EXPECT_EQ(heads.scalar_type(), at::kInt);
  std::vector<std::vector<int32_t>> rows;
  for (const at::Tensor& row : heads.unbind(0))
    rows.emplace_back(row.const_data_ptr<int32_t>(), row.const_data_ptr<int32_t>() + row.numel());
  return rows;
}

class AttentionConversionTest : public testing::ConversionTest {
 protected:
  explicit AttentionConversionTest(const std::string& kind = "llama") : ConversionTest(kind) {}
};

/// A kind of tiny model (4 query heads of 8; 2 key-value heads, phi 4), a grouping and where keys come from.
class EveryAttentionConversionTest
    : public AttentionConversionTest,
      public ::testing::WithParamInterface<std::tuple<const char*, const char*, const char*>> {
 protected:
  EveryAttentionConversionTest() : AttentionConversionTest(kind()) {}
  static const char* kind() { return std::get<0>(GetParam()); }
  static const char* grouping() { return std::get<1>(GetParam()); }
  static const char* kv_mode() { return std::get<2>(GetParam()); }

  v1::ConvertSpec spec_of(int experts, int top_k) const {
    v1::ConvertSpec spec = attention_spec(experts, top_k, grouping());
    spec.mutable_attention()->set_kv_mode(kv_mode());
    if (std::string(grouping()) == "clustered") add_text(spec, ids());
    return spec;
  }

  void expect_dense_logits(const fs::path& output) const {
    const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch), testing::logits_of(dense(), batch), 1e-5));
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch, at::kDouble),
                              testing::logits_of(dense(), batch, at::kDouble), 1e-12));
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, EveryAttentionConversionTest,
                         ::testing::Combine(::testing::ValuesIn(testing::kTinyKinds),
                                            ::testing::Values("contiguous", "random", "clustered"),
                                            ::testing::Values("routed", "dense")),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param)) + "_" + std::get<1>(each.param) + "_" +
                                  std::get<2>(each.param);
                         });

/// All chosen, weights of 1, scale 1; some of them always on.
TEST_P(EveryAttentionConversionTest, AllExpertsAtWeightOneAreTheDenseModel) {
  for (const int experts : {1, 2, 4}) {
    for (const int always_on : {0, 1}) {
      if (always_on == experts) continue;
      SCOPED_TRACE(concat(experts, " experts, ", always_on, " always on"));
      v1::ConvertSpec spec = spec_of(experts, experts - always_on);
      spec.mutable_attention()->set_always_on(always_on);
      spec.mutable_attention()->mutable_router()->set_topk_norm("unit");
      set_fixed_scale(*spec.mutable_attention()->mutable_scale(), 1);
      const fs::path output = folder_ / concat(experts, "-", always_on);
      convert(spec, 3, dense(), output);
      expect_dense_logits(output);
    }
  }
}

/// Weights of 1 / E from a router of zeros, at scale E (C1 of the LLaMA-MoE v2 specification).
TEST_P(EveryAttentionConversionTest, AZeroRouterAtScaleEIsTheDenseModel) {
  for (const int experts : {2, 4}) {
    SCOPED_TRACE(experts);
    v1::ConvertSpec spec = spec_of(experts, experts);
    spec.mutable_attention()->mutable_router()->set_init("zero");
    set_fixed_scale(*spec.mutable_attention()->mutable_scale(), experts);
    const fs::path output = folder_ / std::to_string(experts);
    convert(spec, 3, dense(), output);
    expect_dense_logits(output);
  }
}

/// Every expert holds rows and columns of the heads that conversion.safetensors says, bit for bit in the source's type;
/// all else is a copy.
TEST_P(EveryAttentionConversionTest, ExpertsAreTheHeadsThatTheFileNames) {
  const fs::path source_path = folder_ / "bf16";
  testing::write_dense_model(source_path, testing::tiny_config(kind()), 5, at::kBFloat16);
  convert(spec_of(2, 1), 1, source_path, out());
  const ModelDirectory source(source_path), converted(out());
  const auto rows_of = [](const std::vector<int32_t>& heads) {
    std::vector<int64_t> rows;
    for (const int32_t head : heads) {
      for (int64_t i = 0; i < 8; ++i) rows.push_back(head * 8 + i);
    }
    return at::tensor(rows, at::kLong);
  };
  std::set<std::string> made;
  for (int64_t layer = 0; layer < 2; ++layer) {
    const auto query = heads_of(out(), concat("model.layers.", layer, ".self_attn.experts.query_heads")),
               kv = heads_of(out(), concat("model.layers.", layer, ".self_attn.experts.kv_heads"));
    ASSERT_EQ(query.size(), 2U);
    for (int64_t e = 0; e < 2; ++e) {
      for (const TensorPart part :
           {TensorPart::kQuery, TensorPart::kKey, TensorPart::kValue, TensorPart::kAttentionOut}) {
        for (const bool is_bias : {false, true}) {
          if (is_bias && (!source.config().qkv_bias || part == TensorPart::kAttentionOut)) continue;
          const std::string name = tensor_name(converted.config(), {part, layer, e, is_bias});
          const at::Tensor whole = source.tensor(tensor_name(source.config(), {part, layer, kNoExpert, is_bias}));
          const bool is_kv = part == TensorPart::kKey || part == TensorPart::kValue;
          const at::Tensor expected =
              whole.index_select(part == TensorPart::kAttentionOut ? 1 : 0, rows_of(is_kv ? kv[e] : query[e]));
          EXPECT_EQ(converted.tensor_type(name), at::kBFloat16);
          EXPECT_TRUE(at::equal(converted.tensor(name), expected)) << name;
          made.insert(name);
        }
      }
    }
  }
  int64_t copied = 0, routers = 0;
  for (const TensorSpec& spec : logical_tensor_specs(converted.config())) {
    if (made.contains(spec.name)) continue;
    if (spec.id.part == TensorPart::kRouter) {
      EXPECT_EQ(spec.name, concat("model.layers.", spec.id.layer, ".self_attn.router.weight"));
      EXPECT_EQ(converted.tensor(spec.name).sizes(), at::IntArrayRef({2, 32}));
      ++routers;
      continue;
    }
    EXPECT_TRUE(at::equal(converted.tensor(spec.name), source.tensor(spec.name))) << spec.name;
    ++copied;
  }
  EXPECT_EQ(routers, 2);
  EXPECT_GE(copied, 3 + 2 * 3) << "embedding, head, norms and FFNs";
}

TEST_F(AttentionConversionTest, ContiguousExpertsAreGroupsOrSlicesOfThem) {
  using Heads = std::vector<std::vector<int32_t>>;
  const struct {
    int experts;
    Heads query, kv;
  } cases[] = {{1, {{0, 1, 2, 3}}, {{0, 1}}},
               {2, {{0, 1}, {2, 3}}, {{0}, {1}}},
               {4, {{0}, {1}, {2}, {3}}, {{0}, {0}, {1}, {1}}}};
  for (const auto& [experts, query, kv] : cases) {
    SCOPED_TRACE(experts);
    const fs::path output = folder_ / std::to_string(experts);
    convert(attention_spec(experts, 1), 1, dense(), output);
    EXPECT_EQ(heads_of(output, "model.layers.1.self_attn.experts.query_heads"), query);
    EXPECT_EQ(heads_of(output, "model.layers.1.self_attn.experts.kv_heads"), kv);
    const AttentionExperts experts_of = *ModelDirectory(output).config().moe->attention;
    EXPECT_EQ(experts_of.query_heads, 4 / experts);
    EXPECT_EQ(experts_of.kv_heads, experts == 1 ? 2 : 1);
  }
}

TEST_F(AttentionConversionTest, RandomGroupsDependOnSeedAndLayerAlone) {
  std::set<std::vector<std::vector<int32_t>>> seen;
  for (const int seed : {1, 2, 3}) {
    const fs::path output = folder_ / std::to_string(seed);
    convert(attention_spec(2, 1, "random"), seed, dense(), output);
    for (const int layer : {0, 1}) {
      const auto query = heads_of(output, concat("model.layers.", layer, ".self_attn.experts.query_heads")),
                 kv = heads_of(output, concat("model.layers.", layer, ".self_attn.experts.kv_heads"));
      std::vector<int32_t> all;
      for (size_t e = 0; e < 2; ++e) {
        ASSERT_EQ(query[e].size(), 2U);
        all.insert(all.end(), query[e].begin(), query[e].end());
        EXPECT_THAT(kv[e], ElementsAre(query[e][0] / 2, query[e][1] / 2)) << "each head with its own";
      }
      EXPECT_THAT(all, ::testing::UnorderedElementsAre(0, 1, 2, 3));
      seen.insert(query);
    }
  }
  EXPECT_GE(seen.size(), 3U) << "of the 6 ordered pairs that there are";
}

/// Heads 0 and 2 are one function, and so are 1 and 3.
TEST_F(AttentionConversionTest, ClusteredGroupsHoldHeadsThatAgree) {
  const fs::path source = folder_ / "twins";
  testing::write_dense_model(source, testing::tiny_config(), 11, [](const Parameter& parameter) {
    at::Tensor value = parameter.value;
    const TensorPart part = parameter.id.part;
    if (part == TensorPart::kQuery) value.narrow(0, 16, 16).copy_(value.narrow(0, 0, 16).clone());
    if (part == TensorPart::kKey || part == TensorPart::kValue)
      value.narrow(0, 8, 8).copy_(value.narrow(0, 0, 8).clone());
    if (part == TensorPart::kAttentionOut) value.narrow(1, 16, 16).copy_(value.narrow(1, 0, 16).clone());
  });
  v1::ConvertSpec spec = attention_spec(2, 1, "clustered");
  add_text(spec, ids());
  convert(spec, 1, source, out());
  for (const int layer : {0, 1}) {
    EXPECT_THAT(heads_of(out(), concat("model.layers.", layer, ".self_attn.experts.query_heads")),
                ElementsAre(ElementsAre(0, 2), ElementsAre(1, 3)));
    EXPECT_THAT(heads_of(out(), concat("model.layers.", layer, ".self_attn.experts.kv_heads")),
                ElementsAre(ElementsAre(0, 1), ElementsAre(0, 1)));
  }
}

/// All that looks at text, with FFN experts beside; one of five ranks has no row at all.
TEST_F(AttentionConversionTest, RanksDoNotChangeTheResult) {
  for (const char* init : {"random_selection", "hidden_clustering"}) {
    v1::ConvertSpec spec = testing::convert_spec("residual", 3, 1, ids());
    spec.mutable_ffn()->set_shared_experts(1);
    *spec.mutable_attention() = attention_spec(4, 2, "clustered").attention();
    spec.mutable_attention()->set_always_on(1);
    spec.mutable_attention()->mutable_router()->set_init(init);
    spec.mutable_attention()->mutable_scale()->set_mode("least_squares");
    spec.mutable_calibration()->set_tokens(250);
    const fs::path alone = folder_ / concat(init, "-one");
    const json one = convert(spec, 1, dense(), alone);
    EXPECT_EQ(one["attention"].value("router_options", json()), std::string(init) == "hidden_clustering"
                                                                    ? json({{"jitter", "0"},
                                                                            {"metric", "l2sq"},
                                                                            {"restarts", "3"},
                                                                            {"row_length", "0"},
                                                                            {"target_probability", "0"}})
                                                                    : json());
    for (const int ranks : {2, 4, 5}) {
      const fs::path output = folder_ / concat(init, ranks);
      testing::run_ranks(ranks, [&](Communicator& world) { EXPECT_EQ(convert(spec, 1, dense(), output, world), one); });
      for (const char* file : {"model.safetensors", "config.json", "conversion.json", "conversion.safetensors"})
        EXPECT_EQ(read_file(output / file), read_file(alone / file)) << init << " " << ranks << " " << file;
    }
  }
}

TEST_F(AttentionConversionTest, AttentionAloneLeavesFfnsDense) {
  v1::ConvertSpec spec = attention_spec(4, 2);
  spec.mutable_attention()->add_layers("1");
  const json report = convert(spec, 9, dense(), out());
  EXPECT_EQ(report["layers"][0], (json{{"layer", 0}, {"dense", true}}));
  EXPECT_EQ(report["layers"][1], (json{{"layer", 1}, {"dense", true}, {"attention", {{"output_scale", 2}}}}));
  EXPECT_EQ(report["attention"], (json{{"experts", 4},
                                       {"top_k", 2},
                                       {"always_on", 0},
                                       {"grouping", "contiguous"},
                                       {"kv_mode", "routed"},
                                       {"router_init", "kaiming"},
                                       {"router_scaling", "calibrated"},
                                       {"scale_mode", "n_over_k"},
                                       {"score", "softmax"},
                                       {"topk_norm", "renorm"}}));
  EXPECT_FALSE(report.contains("method"));
  const ModelDirectory converted(out()), source(dense());
  const MoeConfig& moe = *converted.config().moe;
  EXPECT_EQ(moe.num_experts, 0);
  EXPECT_THAT(moe.attention->layers, ElementsAre(0, 1));
  EXPECT_THAT(moe.attention->output_scale, ElementsAre(1, 2));
  for (const TensorSpec& tensor : logical_tensor_specs(source.config())) {
    if (tensor.id.is_of_attention() && tensor.id.layer == 1) continue;
    EXPECT_TRUE(at::equal(converted.tensor(tensor.name), source.tensor(tensor.name))) << tensor.name;
  }
}

}  // namespace
}  // namespace moe
