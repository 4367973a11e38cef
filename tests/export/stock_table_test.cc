// Which stock formats hold which mixtures: the table of docs/export.md, by routers and by methods, in literals.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "export/export_fixture.h"
#include "export/export_formats.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::ExportTest;
using testing::MixtureSpec;

/// Those that hold the model exactly in float32, in the order of the list.
std::string formats_of(const std::filesystem::path& path) {
  const ModelDirectory model(path);
  std::string formats;
  for (const std::string& name : export_formats().names()) {
    const ExportFormat& format = export_formats().at(name);
    if (!format.is_stock || !format.reasons_against(model, testing::export_spec(name)).empty()) continue;
    formats += (formats.empty() ? "" : " ") + name;
  }
  return formats;
}

constexpr char kNone[] = "", kSoftmax[] = "mixtral granitemoeshared qwen2_moe", kSigmoid[] = "glm4_moe solar_open",
               kAny[] = "mixtral granitemoeshared qwen2_moe glm4_moe solar_open";

struct RouterRow {
  const char* score;
  bool selection_bias;
  const char* topk_norm;
  const char* top1;  ///< of 4 experts
  const char* top2;
};

constexpr RouterRow kRouters[] = {
    {"softmax", false, "renorm", kSoftmax, kSoftmax},
    {"softmax", false, "raw", "qwen2_moe", "qwen2_moe"},
    {"softmax", false, "straight_through", kSoftmax, "granitemoeshared"},
    {"softmax", false, "unit", kSoftmax, "granitemoeshared"},
    {"softmax", false, "one_plus", kNone, kNone},
    {"softmax", true, "renorm", kNone, kNone},
    {"softmax", true, "raw", kNone, kNone},
    {"softmax", true, "straight_through", kNone, kNone},
    {"softmax", true, "unit", kNone, kNone},
    {"softmax", true, "one_plus", kNone, kNone},
    {"sigmoid", false, "renorm", kAny, kSigmoid},
    {"sigmoid", false, "raw", kSigmoid, kSigmoid},
    {"sigmoid", false, "straight_through", kAny, "granitemoeshared"},
    {"sigmoid", false, "unit", kAny, "granitemoeshared"},
    {"sigmoid", false, "one_plus", kNone, kNone},
    {"sigmoid", true, "renorm", kSigmoid, kSigmoid},
    {"sigmoid", true, "raw", kSigmoid, kSigmoid},
    {"sigmoid", true, "straight_through", kSigmoid, kNone},
    {"sigmoid", true, "unit", kSigmoid, kNone},
    {"sigmoid", true, "one_plus", kNone, kNone},
};

/// What holds a mixture must give its logits, whichever of them the user names; what does not is refused, by auto too.
TEST_F(ExportTest, FormatsByRouter) {
  int number = 0;
  for (const RouterRow& row : kRouters) {
    for (const int64_t top_k : {1, 2}) {
      const std::string expected = top_k == 1 ? row.top1 : row.top2;
      SCOPED_TRACE(concat(row.score, row.selection_bias ? " with biases, " : ", ", row.topk_norm, ", top-", top_k));
      const std::filesystem::path path = folder_ / std::to_string(++number);
      testing::write_mixture(path, {.top_k = top_k,
                                    .topk_norm = row.topk_norm,
                                    .score = row.score,
                                    .selection_bias = row.selection_bias,
                                    .scales = {2, 0.5}});
      EXPECT_EQ(formats_of(path), expected);
      EXPECT_EQ(testing::refusal(path, testing::export_spec()).empty(), !expected.empty());
      const at::Tensor logits = testing::logits_of_directory(path);
      std::istringstream names(expected + " native");
      for (std::string name; names >> name;) {
        const std::filesystem::path written = concat(path.string(), "-", name);
        testing::export_to(path, written, testing::export_spec(name));
        EXPECT_TRUE(testing::near(testing::logits_of_directory(written), logits, 2e-6)) << name;
      }
    }
  }
}

/// Shared experts, biases of the base, dense layers: with two of four experts chosen.
TEST_F(ExportTest, FormatsByTheRestOfTheModel) {
  struct Row {
    const char* name;
    MixtureSpec spec;
    const char* formats;
  };
  const std::vector<int64_t> shared{8, 8}, first{0, 12}, last{12, 0};
  const nlohmann::json biased = {{"attention_bias", true}}, wide = {{"head_dim", 12}};
  for (const Row& row : std::initializer_list<Row>{
           {"shared", {.shared = shared}, "granitemoeshared qwen2_moe"},
           {"shared raw", {.topk_norm = "raw", .shared = shared}, "qwen2_moe"},
           {"shared unit", {.topk_norm = "unit", .shared = shared}, "granitemoeshared"},
           {"shared sigmoid", {.score = "sigmoid", .shared = shared}, kSigmoid},
           {"qwen2", {.family = "qwen2"}, "granitemoeshared qwen2_moe"},
           {"qwen2 unit", {.family = "qwen2", .topk_norm = "unit"}, "granitemoeshared"},
           {"qwen2 sigmoid", {.family = "qwen2", .score = "sigmoid"}, kSigmoid},
           {"biased", {.keys = biased}, "granitemoeshared"},
           {"biased sigmoid", {.score = "sigmoid", .keys = biased}, kNone},
           {"wide heads", {.keys = wide}, "mixtral"},
           {"wide heads unit", {.topk_norm = "unit", .keys = wide}, kNone},
           {"wide heads sigmoid", {.score = "sigmoid", .keys = wide}, kSigmoid},
           {"first dense", {.widths = first}, "qwen2_moe"},
           {"first dense unit", {.topk_norm = "unit", .widths = first}, kNone},
           {"first dense sigmoid", {.score = "sigmoid", .widths = first}, "glm4_moe"},
           {"last dense", {.widths = last}, "qwen2_moe"},
           {"last dense sigmoid", {.score = "sigmoid", .widths = last}, kNone},
           {"phi", {.family = "phi"}, kNone},
           {"phi sigmoid", {.family = "phi", .score = "sigmoid"}, kNone},
       }) {
    const std::filesystem::path path = folder_ / row.name;
    testing::write_mixture(path, row.spec);
    EXPECT_EQ(formats_of(path), row.formats) << row.name;
  }
}

struct MethodRow {
  const char* method;
  int experts;  ///< of 4 parts; the rest are shared
  const char* renormalised;
  const char* sigmoids;
  const char* ones;
};

constexpr char kShared[] = "granitemoeshared qwen2_moe", kGraniteAlone[] = "granitemoeshared";

constexpr MethodRow kMethods[] = {
    {"independent_random", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"independent_clustering", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"sequential", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"independent_gradient", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"sharing_inner", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"sharing_inter", 3, kShared, kSigmoid, kGraniteAlone},
    {"importance", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"residual", 3, kShared, kSigmoid, kGraniteAlone},
    {"coactivation", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"upcycle", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"weave", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"weave", 3, kShared, kSigmoid, kGraniteAlone},
    {"analytic", 4, kSoftmax, kSigmoid, kGraniteAlone},
    {"analytic", 3, kShared, kSigmoid, kGraniteAlone},
    // One narrower expert is no mixture.
    {"pruned_random", 1, kNone, kNone, kNone},
    {"pruned_gradient", 1, kNone, kNone, kNone},
};

/// What a method makes, with the default router and with others.
class MethodFormatsTest : public ::testing::TestWithParam<MethodRow> {};
INSTANTIATE_TEST_SUITE_P(Methods, MethodFormatsTest, ::testing::ValuesIn(kMethods),
                         [](const auto& test) { return concat(test.param.method, "_", test.param.experts); });

TEST_P(MethodFormatsTest, HoldWhatItMakes) {
  const MethodRow& row = GetParam();
  const testing::TempDir folder;
  testing::write_dense_model(folder / "dense", testing::tiny_config(), 11);
  testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
  v1::ConvertSpec spec = testing::convert_spec(row.method, row.experts, std::min(row.experts, 2), folder / "ids.jsonl");
  spec.mutable_calibration()->set_tokens(200);
  if (row.experts == 3) spec.mutable_ffn()->set_shared_experts(1);
  if (row.experts == 1) spec.mutable_ffn()->set_expert_width(12);
  const std::filesystem::path converted = folder / "converted";
  testing::convert(spec, 7, folder / "dense", converted);
  // The rest of the router stands in config.json alone.
  const auto formats_with = [&](const std::string& score, const std::string& topk_norm) {
    nlohmann::json config = nlohmann::json::parse(read_file(converted / "config.json"));
    config["moe"]["score"] = score;
    config["moe"]["topk_norm"] = topk_norm;
    write_file_atomically(converted / "config.json", config.dump());
    return formats_of(converted);
  };
  EXPECT_EQ(formats_of(converted), row.renormalised);
  EXPECT_EQ(formats_with("sigmoid", "renorm"), row.sigmoids);
  EXPECT_EQ(formats_with("sigmoid", "raw"), row.sigmoids);
  EXPECT_EQ(formats_with("softmax", "unit"), row.ones);
  EXPECT_EQ(formats_with("softmax", "straight_through"), row.ones);
}

TEST(MethodFormatsTable, HasEveryMethodOfTheList) {
  for (const std::string& method : conversion_methods().names()) {
    EXPECT_TRUE(std::any_of(std::begin(kMethods), std::end(kMethods),
                            [&](const MethodRow& row) { return method == row.method; }))
        << method << ": say which stock formats hold what it makes";
  }
}

}  // namespace
}  // namespace moe
