// Checkpoints in the layouts of LLaMA-MoE v1 and v2, written with a forward of their own (llama_moe_oracle.py): opened
// as they are they give its logits, and what is written of them does too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "export/export_fixture.h"
#include "testing/compare.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

/// Of the largest logit, in double: angles are computed in float32 on both sides.
constexpr double kRelative = 1e-6;

class LlamaMoePeerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(testing::peer_python()))
      GTEST_SKIP() << "no numpy here: " << testing::peer_python() << " is missing (deploy/install_deps.sh --peers)";
    const testing::ProcessResult result =
        testing::run_process({testing::peer_python().string(),
                              testing::source_dir() + "/tests/peer/llama_moe_oracle.py", folder_.path().string()});
    ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  }

  /// Names of the cases that have an oracle, or have not.
  std::vector<std::string> cases(bool are_refused) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      if (const std::string name = entry.path().filename(); name.starts_with("refused_") == are_refused)
        names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  /// The directory as the program left it: what the oracle says is no part of it.
  void split(const std::string& name) {
    fs::create_directories(oracles_.path());
    fs::rename(folder_ / name / "oracle.safetensors", oracles_ / (name + ".safetensors"));
  }

  TokenBatch batch_of(const std::string& name) const {
    const at::Tensor ids = SafetensorsFile(oracles_ / (name + ".safetensors")).tensor("ids").clone();
    return {ids, {0, ids.size(0)}};
  }
  at::Tensor expected_of(const std::string& name) const {
    return SafetensorsFile(oracles_ / (name + ".safetensors")).tensor("logits").clone();
  }

  double relative_difference(const fs::path& model, const std::string& name) const {
    const at::Tensor expected = expected_of(name);
    return testing::max_difference(testing::logits_of(model, batch_of(name), at::kDouble), expected) /
           testing::max_abs(expected);
  }

  std::string refusal(const std::string& name) const {
    try {
      const ModelDirectory directory(folder_ / name);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "";
  }

  testing::TempDir folder_, oracles_;
};

TEST_F(LlamaMoePeerTest, DirectoriesGiveTheLogitsOfTheirOwnForward) {
  int compared = 0;
  for (const std::string& name : cases(false)) {
    SCOPED_TRACE(name);
    split(name);
    const double difference = relative_difference(folder_ / name, name);
    std::cout << name << ": difference " << difference << " of the largest logit\n";
    EXPECT_LE(difference, kRelative);
    // And so does what we write of it.
    const fs::path native = folder_.path().string() + "-native-" + name;
    testing::export_to(folder_ / name, native, testing::export_spec("native"));
    EXPECT_TRUE(at::equal(testing::logits_of(native, batch_of(name), at::kDouble),
                          testing::logits_of(folder_ / name, batch_of(name), at::kDouble)));
    fs::remove_all(native);
    ++compared;
  }
  EXPECT_EQ(compared, 17);
}

TEST_F(LlamaMoePeerTest, WhatTheConfigSaysBecomesOurs) {
  for (const std::string& name : cases(false)) split(name);
  const ModelConfig contract = ModelDirectory(folder_ / "v2_residual_contract").config();
  EXPECT_EQ(contract.stock_layout, "llama_moe_v2");
  EXPECT_EQ(contract.intermediate_size, 48);
  EXPECT_THAT(contract.moe->expert_widths, ElementsAre(0, 12, 0));
  EXPECT_THAT(contract.moe->shared_widths, ElementsAre(0, 12, 0));
  EXPECT_THAT(contract.moe->output_scale, ElementsAre(1, 3, 1));
  for (const char* key : {"auto_map", "scale_factor", "moe_type", "num_moe_contract_layers"})
    EXPECT_FALSE(contract.source.contains(key)) << key;
  EXPECT_THAT(ModelDirectory(folder_ / "v2_scale_by_layer").config().moe->output_scale, ElementsAre(4, 0.5, 3.3));
  EXPECT_EQ(ModelDirectory(folder_ / "v2_residual_top1").config().moe->topk_norm, "straight_through");
  const ModelConfig halves = ModelDirectory(folder_ / "v2_attention_in_halves").config();
  const AttentionExperts& attention = *halves.moe->attention;
  EXPECT_EQ(attention.num_experts, 4);
  EXPECT_EQ(attention.top_k, 3);
  EXPECT_EQ(attention.query_heads, 1);
  EXPECT_EQ(attention.kv_heads, 1);
  EXPECT_THAT(attention.layers, ElementsAre(1, 1, 1));
  EXPECT_THAT(attention.output_scale, ElementsAre(4, 4, 4));
  EXPECT_EQ(attention.topk_norm, "renorm");
  const ModelConfig whole = ModelDirectory(folder_ / "v2_attention").config();
  EXPECT_EQ(whole.moe->attention->num_experts, 2) << "one a key-value head, where the key is null";
  EXPECT_EQ(whole.moe->attention->topk_norm, "straight_through");
  EXPECT_FALSE(ModelDirectory(folder_ / "v2_vanilla").config().moe->attention) << "the keys alone are no experts";
  const ModelConfig sizes = ModelDirectory(folder_ / "v1_sizes").config();
  EXPECT_EQ(sizes.moe->expert_widths_json().dump(), "[12,[20,4,8,16],[1,2,3,42]]");
  EXPECT_EQ(sizes.intermediate_size, 48);
  const ModelDirectory tanh(folder_ / "v1_tanh"), noise(folder_ / "v1_noise");
  EXPECT_EQ(tanh.config().moe->router, "mlp");
  EXPECT_EQ(tanh.config().moe->router_noise, "learned");
  EXPECT_EQ(tanh.tensor("model.layers.2.mlp.router.out.weight").sizes(), at::IntArrayRef({4, 4}));
  EXPECT_EQ(noise.config().moe->router, "linear");
  EXPECT_TRUE(noise.tensor("model.layers.1.mlp.router.noise.weight").eq(0.1F).all().item<bool>());
  EXPECT_EQ(ModelDirectory(folder_ / "v1_tanh_without_noise").config().moe->router_noise, "none");
}

/// Stock clients get them in their own layouts.
TEST_F(LlamaMoePeerTest, ExportsGiveTheSameLogits) {
  for (const std::string& name : cases(false)) split(name);
  const std::vector<std::pair<std::string, std::string>> formats{{"v2_vanilla", "mixtral"},
                                                                 {"v2_residual_top1", "granitemoeshared"},
                                                                 {"v2_residual_contract", "qwen2_moe"},
                                                                 {"v1_linear", "mixtral"}};
  for (const auto& [name, format] : formats) {
    const fs::path out = folder_.path().string() + "-out-" + name;
    EXPECT_EQ(testing::export_to(folder_ / name, out)["format"], format) << name;
    EXPECT_LE(relative_difference(out, name), kRelative) << name;
    fs::remove_all(out);
  }
}

TEST_F(LlamaMoePeerTest, WhatOurRouterIsNotIsRefused) {
  EXPECT_THAT(cases(true), ElementsAre("refused_v2_attention", "refused_v2_window"));
  using ::testing::HasSubstr;
  EXPECT_THAT(refusal("refused_v2_attention"),
              HasSubstr("`attn_experts` is 1; expected a multiple of num_key_value_heads 2"));
  EXPECT_THAT(refusal("refused_v2_window"), HasSubstr("`sliding_window` is 16; expected null, or at least"));
}

}  // namespace
}  // namespace moe
