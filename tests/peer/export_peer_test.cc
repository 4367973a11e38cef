// Exports against transformers of line 4.5x and of line 5, run by the peers' Python on the same machine: every row of
// docs/export.md loads without a word and gives our logits and our greedy text.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "export/export_fixture.h"
#include "export/stock_table.h"
#include "testing/full_run.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/subprocess.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int64_t kLength = 128, kPromptLength = 6;

/// What each export of a test is tried on.
struct Trial {
  int64_t sequences;  ///< of kLength tokens
  int64_t prompts;
  int64_t generated;  ///< tokens of each prompt
};
constexpr Trial kWhole{.sequences = 8, .prompts = 4, .generated = 64},
    kShort{.sequences = 1, .prompts = 1, .generated = 8};
constexpr double kAbsolute = 2e-5, kRelative = 1e-5;
constexpr double kMostTies = 0.001;  // of the positions

/// The base of every case; `keys` over it.
json base_json(const std::string& family, const json& keys) {
  json base = testing::tiny_json(family);
  base.update({{"hidden_size", 128},
               {"intermediate_size", 352},
               {"num_hidden_layers", 3},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"vocab_size", 512},
               {"max_position_embeddings", 256}});
  base.erase("bos_token_id");
  base.erase("eos_token_id");
  base.update(keys);
  return base;
}

const json kNoKeys = json::object();
const json kTied = {{"tie_word_embeddings", true}};
const json kBiased = {{"attention_bias", true}};
const json kLlama3 = {{"rope_theta", 500000.0},
                      {"rope_scaling",
                       {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}}}};
const json kYarn = {
    {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}}}};
const json kWide = {{"head_dim", 48}};
const json kLinear = {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}};

struct Peer {
  std::string name;
  std::filesystem::path python;
  std::string version_begins;
};

void PrintTo(const Peer& peer, std::ostream* out) {
  *out << peer.name;
}

class ExportPeerTest : public ::testing::TestWithParam<Peer> {
 protected:
  /// A class of line 5.
  static bool has_solar_open() { return GetParam().version_begins == "5."; }

  void SetUp() override {
    if (!std::filesystem::exists(GetParam().python))
      GTEST_SKIP() << "no " << GetParam().name << " here: " << GetParam().python
                   << " is missing (deploy/install_deps.sh --peers)";
  }

  /// Exports `native` and lays out what the oracle needs.
  void add(const std::string& name, const std::filesystem::path& native, const std::string& format,
           v1::ExportSpec spec = testing::export_spec()) {
    const std::filesystem::path folder = cases_ / name;
    std::filesystem::create_directories(folder);
    const json report = testing::export_to(native, folder / "export", spec);
    EXPECT_EQ(report["format"], format) << name;
    write_ours(native, folder / "ours.safetensors", trial_);
    ++added_;
  }

  void add_converted(const std::string& method, const std::string& base_name, const std::string& family,
                     const json& keys, int top_k, const std::string& format) {
    const std::string name = concat(method, "_", base_name, "_top", top_k);
    const std::filesystem::path dense = folder_ / concat("dense_", base_name), native = folder_ / name,
                                ids = folder_ / "ids.jsonl";
    if (!std::filesystem::exists(ids)) testing::write_calibration(ids, 40, 512, 12);
    if (!std::filesystem::exists(dense))
      testing::write_dense_model(dense, parse_model_config(base_json(family, keys).dump(), "base"), 11);
    testing::convert(testing::convert_spec(method, 4, top_k, ids), 7, dense, native);
    add(name, native, format);
  }

  void add_made(const std::string& name, const testing::MixtureSpec& spec, const std::string& format,
                const v1::ExportSpec& how = testing::export_spec()) {
    testing::write_mixture(folder_ / name, spec);
    add(name, folder_ / name, format, how);
  }

  /// Logits of random ids, and greedy continuations with the cache.
  static void write_ours(const std::filesystem::path& model, const std::filesystem::path& file, const Trial& trial) {
    const at::NoGradGuard no_grad;
    const ModelDirectory directory(model);
    const Decoder decoder = load_decoder(directory, at::kFloat, all_experts(directory.config()));
    const int64_t vocab = directory.config().vocab_size;
    const at::Tensor ids =
        testing::random_batch({trial.sequences * kLength}, vocab, 21).tokens_T.view({trial.sequences, kLength});
    const at::Tensor prompts =
        testing::random_batch({trial.prompts * kPromptLength}, vocab, 22).tokens_T.view({trial.prompts, kPromptLength});
    at::Tensor logits = at::empty({trial.sequences, kLength, vocab}),
               greedy = at::empty({trial.prompts, trial.generated}, at::kLong);
    LocalDispatcher dispatcher;
    for (int64_t row = 0; row < trial.sequences; ++row) {
      logits.select(0, row).copy_(
          decoder.logits(decoder.forward({ids.select(0, row), {0, kLength}}, dispatcher).hidden_TD));
    }
    for (int64_t row = 0; row < trial.prompts; ++row)
      greedy.select(0, row).copy_(continuation(decoder, prompts.select(0, row), trial.generated));
    SafetensorsWriter writer(file, {{"input_ids", at::kLong, ids.sizes().vec()},
                                    {"logits", at::kFloat, logits.sizes().vec()},
                                    {"prompts", at::kLong, prompts.sizes().vec()},
                                    {"greedy", at::kLong, greedy.sizes().vec()}});
    writer.write("input_ids", ids);
    writer.write("logits", logits);
    writer.write("prompts", prompts);
    writer.write("greedy", greedy);
    writer.finish();
  }

  static at::Tensor continuation(const Decoder& decoder, const at::Tensor& prompt, int64_t length) {
    LocalDispatcher dispatcher;
    KvCache cache;
    std::vector<int64_t> generated;
    at::Tensor next = prompt;
    while (static_cast<int64_t>(generated.size()) < length) {
      const int64_t count = next.size(0);
      const at::Tensor hidden = decoder.forward({next, {0, count}}, dispatcher, {.cache = &cache}).hidden_TD;
      generated.push_back(decoder.logits(hidden.slice(0, count - 1)).argmax(1).item<int64_t>());
      next = at::tensor({generated.back()}, at::kLong);
    }
    return at::tensor(generated, at::kLong);
  }

  void judge() {
    const testing::ProcessResult result = testing::run_process(
        {GetParam().python.string(), testing::source_dir() + "/tests/peer/export_oracle.py", cases_.string()});
    ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
    int judged = 0;
    std::vector<std::filesystem::path> folders;
    for (const auto& entry : std::filesystem::directory_iterator(cases_)) folders.push_back(entry.path());
    std::sort(folders.begin(), folders.end());
    for (const std::filesystem::path& folder : folders) {
      expect_good(folder.filename(), json::parse(read_file(folder / "verdict.json")));
      ++judged;
    }
    EXPECT_EQ(judged, added_);
    std::cout << judged << " exports judged\n";
  }

  void expect_good(const std::string& name, const json& verdict) const {
    std::cout << name << ": " << verdict["class"].get<std::string>() << " (transformers "
              << verdict["transformers"].get<std::string>() << ") positions=" << verdict["positions"]
              << " ties=" << verdict["ties"] << " max_abs_difference=" << verdict["max_difference"]
              << " max_logit=" << verdict["max_logit"] << " greedy_differences=" << verdict["greedy_differences"] << "/"
              << verdict["greedy_tokens"] << "\n";
    EXPECT_EQ(verdict["transformers"].get<std::string>().rfind(GetParam().version_begins, 0), 0U)
        << GetParam().python << " has another version than " << GetParam().name;
    EXPECT_TRUE(verdict["problems"].empty()) << name << ": " << verdict["problems"];
    EXPECT_TRUE(verdict["warnings"].empty()) << name << ": " << verdict["warnings"];
    const double positions = verdict["positions"], difference = verdict["max_difference"],
                 largest = verdict["max_logit"];
    EXPECT_EQ(positions, trial_.sequences * kLength) << name;
    EXPECT_LE(verdict["ties"].get<double>(), std::max(1.0, kMostTies * positions)) << name;
    EXPECT_LE(difference, kAbsolute) << name;
    EXPECT_LE(difference, kRelative * largest) << name;
    EXPECT_GT(largest, 0.1) << name;
    EXPECT_EQ(verdict["wrong_choices"], 0) << name;
    EXPECT_EQ(verdict["greedy_tokens"], trial_.prompts * trial_.generated) << name;
    EXPECT_EQ(verdict["greedy_differences"], 0) << name;
  }

  testing::TempDir folder_;
  std::filesystem::path cases_ = folder_ / "cases";
  int added_ = 0;
  Trial trial_ = kWhole;
};

TEST_P(ExportPeerTest, EveryRowLoadsAndGivesOurLogits) {
  for (const char* method : {"independent_random", "sequential"}) {
    for (const int top_k : {1, 2}) {
      add_converted(method, "llama", "llama", kNoKeys, top_k, "mixtral");
      add_converted(method, "llama3rope", "llama", kLlama3, top_k, "mixtral");
      add_converted(method, "qwen2", "qwen2", kNoKeys, top_k, "qwen2_moe");
      add_converted(method, "qwen2tied", "qwen2", kTied, top_k, "qwen2_moe");
    }
  }
  const auto made = [&](const std::string& family, const json& keys, const std::string& topk_norm, int64_t shared) {
    return testing::MixtureSpec{.family = family,
                                .topk_norm = topk_norm,
                                .widths = {88, 88, 80},
                                .shared = {shared, shared, shared},
                                .scales = {2, 1, 0.7},
                                .keys = base_json(family, keys)};
  };
  auto tied = testing::export_spec(), padded = testing::export_spec();
  tied.set_keep_tied(true);
  padded.set_pad_experts_to(32);
  add_made("rowA_llama_tied_kept", made("llama", kTied, "renorm", 0), "mixtral", tied);
  add_made("rowA_llama_yarn_padded", made("llama", kYarn, "renorm", 0), "mixtral", padded);
  add_made("rowA_as_granite", made("llama", kLinear, "renorm", 0), "granitemoeshared",
           testing::export_spec("granitemoeshared"));
  add_made("rowB_llama", made("llama", kNoKeys, "renorm", 48), "granitemoeshared");
  add_made("rowB_llama3rope", made("llama", kLlama3, "renorm", 48), "granitemoeshared");
  add_made("rowB_llama_attention_bias", made("llama", kBiased, "renorm", 48), "granitemoeshared");
  add_made("rowB2_qwen2", made("qwen2", kNoKeys, "renorm", 48), "qwen2_moe");
  add_made("rowC_llama", made("llama", kNoKeys, "raw", 0), "qwen2_moe");
  add_made("rowC_llama3rope_shared", made("llama", kLlama3, "raw", 48), "qwen2_moe");
  add_made("rowC_qwen2_shared", made("qwen2", kTied, "raw", 48), "qwen2_moe");
  const auto mixed = [&](const std::string& family, const std::string& topk_norm, const std::vector<int64_t>& widths,
                         int64_t shared) {
    testing::MixtureSpec spec = made(family, kNoKeys, topk_norm, 0);
    spec.widths = widths;
    for (size_t layer = 0; layer < widths.size(); ++layer) spec.shared[layer] = widths[layer] > 0 ? shared : 0;
    return spec;
  };
  add_made("rowF_llama_first_dense", mixed("llama", "renorm", {0, 88, 88}, 0), "qwen2_moe");
  add_made("rowF_qwen2_ends_dense", mixed("qwen2", "renorm", {0, 88, 0}, 48), "qwen2_moe");
  add_made("rowF_qwen2_middle_dense_raw", mixed("qwen2", "raw", {88, 0, 80}, 0), "qwen2_moe");
  const auto gated = [&](testing::MixtureSpec spec) {
    spec.shared_gate = "sigmoid";
    spec.gate_scale = 1.7;
    return spec;
  };
  add_made("rowG_llama_gate", gated(made("llama", kNoKeys, "renorm", 48)), "qwen2_moe");
  add_made("rowG_llama3rope_gate_raw", gated(made("llama", kLlama3, "raw", 48)), "qwen2_moe");
  add_made("rowG_qwen2_gate_ends_dense", gated(mixed("qwen2", "renorm", {0, 88, 0}, 48)), "qwen2_moe");
  const auto sigmoid = [&](testing::MixtureSpec spec) {
    spec.score = "sigmoid";
    spec.selection_bias = true;
    return spec;
  };
  const auto scaled = [&](testing::MixtureSpec spec) {
    spec.scales = {1.7, 1.7, 1.7};
    return spec;
  };
  const auto chosen = [&](testing::MixtureSpec spec, int64_t top_k) {
    spec.top_k = top_k;
    return spec;
  };
  add_made("rowE_llama3rope", sigmoid(made("llama", kLlama3, "renorm", 0)), "glm4_moe");
  add_made("rowE_llama_shared_raw_scaled", scaled(sigmoid(made("llama", kTied, "raw", 100))), "glm4_moe", tied);
  add_made("rowE_qwen2_shared", sigmoid(made("qwen2", kNoKeys, "renorm", 48)), "glm4_moe");
  add_made("rowE_llama_top1", chosen(sigmoid(made("llama", kYarn, "straight_through", 48)), 1), "glm4_moe");
  add_made("rowE_first_dense", sigmoid(mixed("llama", "renorm", {0, 88, 88}, 48)), "glm4_moe");
  if (has_solar_open()) {
    const auto solar = testing::export_spec("solar_open");
    add_made("rowE_solar_llama3rope_shared", sigmoid(made("llama", kLlama3, "renorm", 48)), "solar_open", solar);
    add_made("rowE_solar_wide_heads_raw_scaled", scaled(sigmoid(made("llama", kWide, "raw", 0))), "solar_open", solar);
    add_made("rowE_solar_qwen2_tied", sigmoid(made("qwen2", kTied, "renorm", 100)), "solar_open", solar);
  }
  add_made("rowK_llama3rope_shared_top3", chosen(made("llama", kLlama3, "unit", 48), 3), "granitemoeshared");
  add_made("rowK_qwen2", made("qwen2", kNoKeys, "straight_through", 0), "granitemoeshared");
  if (!HasFailure()) judge();
}

/// Every method in every format that holds what it makes of a LLaMA and of a Qwen2.
TEST_P(ExportPeerTest, EveryMethodInEveryFormat) {
  trial_ = testing::sized(kShort, kWhole);
  const json keys = {{"hidden_size", 64}, {"intermediate_size", 176}, {"num_hidden_layers", 2}, {"vocab_size", 128}};
  const std::filesystem::path ids = folder_ / "ids.jsonl";
  testing::write_calibration(ids, 20, 128, 12);
  for (const char* family : {"llama", "qwen2"}) {
    const std::filesystem::path dense = folder_ / concat("dense_", family);
    testing::write_dense_model(dense, parse_model_config(base_json(family, keys).dump(), "base"), 11);
    for (const testing::MethodRow& row : testing::kMethodRows) {
      const std::string name = concat(testing::name_of(row), "_", family);
      const std::filesystem::path native = folder_ / name;
      testing::convert(testing::spec_of(row, 44, ids), 7, dense, native);
      const auto add_all = [&](const std::string& router, const std::string& formats) {
        std::istringstream names(formats);
        for (std::string format; names >> format;) {
          if (format == "solar_open" && !has_solar_open()) continue;
          v1::ExportSpec spec = testing::export_spec(format);
          spec.set_pad_experts_to(4);  // transformers 5 multiplies rows of whole 16 bytes alone; here they are float32
          add(concat(name, "_", router, "_", format), native, format, spec);
        }
      };
      add_all("renormalised", testing::formats_of_base(family, row.renormalised));
      testing::set_router(native, "softmax", "raw");
      add_all("raw", row.raw);
      testing::set_router(native, "sigmoid", "renorm");
      add_all("sigmoids", row.sigmoids);
      testing::set_router(native, "sigmoid", "raw");
      add_all("raw_sigmoids", row.sigmoids);
      testing::set_router(native, "softmax", "unit");
      add_all("ones", row.ones);
    }
  }
  if (!HasFailure()) judge();
}

INSTANTIATE_TEST_SUITE_P(Peers, ExportPeerTest,
                         ::testing::Values(Peer{"transformers4", testing::peer_python_of_transformers4(), "4.5"},
                                           Peer{"transformers5", testing::peer_python(), "5."}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace moe
