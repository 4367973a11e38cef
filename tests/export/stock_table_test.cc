// Which stock formats hold which mixtures: the table of docs/export.md, by routers and by methods, in literals.
#include "export/stock_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "export/export_fixture.h"
#include "export/export_formats.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::ExportTest;
using testing::kAnyRouter;
using testing::kMethodRows;
using testing::kNoFormat;
using testing::kSigmoidFormats;
using testing::kSoftmaxFormats;
using testing::MethodRow;
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

struct RouterRow {
  const char* score;
  bool selection_bias;
  const char* topk_norm;
  const char* top1;  ///< of 4 experts
  const char* top2;
};

constexpr RouterRow kRouters[] = {
    {"softmax", false, "renorm", kSoftmaxFormats, kSoftmaxFormats},
    {"softmax", false, "raw", "qwen2_moe", "qwen2_moe"},
    {"softmax", false, "straight_through", kSoftmaxFormats, "granitemoeshared"},
    {"softmax", false, "unit", kSoftmaxFormats, "granitemoeshared"},
    {"softmax", false, "one_plus", kNoFormat, kNoFormat},
    {"softmax", true, "renorm", kNoFormat, kNoFormat},
    {"softmax", true, "raw", kNoFormat, kNoFormat},
    {"softmax", true, "straight_through", kNoFormat, kNoFormat},
    {"softmax", true, "unit", kNoFormat, kNoFormat},
    {"softmax", true, "one_plus", kNoFormat, kNoFormat},
    {"sigmoid", false, "renorm", kAnyRouter, kSigmoidFormats},
    {"sigmoid", false, "raw", kSigmoidFormats, kSigmoidFormats},
    {"sigmoid", false, "straight_through", kAnyRouter, "granitemoeshared"},
    {"sigmoid", false, "unit", kAnyRouter, "granitemoeshared"},
    {"sigmoid", false, "one_plus", kNoFormat, kNoFormat},
    {"sigmoid", true, "renorm", kSigmoidFormats, kSigmoidFormats},
    {"sigmoid", true, "raw", kSigmoidFormats, kSigmoidFormats},
    {"sigmoid", true, "straight_through", kSigmoidFormats, kNoFormat},
    {"sigmoid", true, "unit", kSigmoidFormats, kNoFormat},
    {"sigmoid", true, "one_plus", kNoFormat, kNoFormat},
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
  const std::vector<Row> rows{
      {"shared", {.shared = shared}, "granitemoeshared qwen2_moe"},
      {"shared raw", {.topk_norm = "raw", .shared = shared}, "qwen2_moe"},
      {"shared unit", {.topk_norm = "unit", .shared = shared}, "granitemoeshared"},
      {"shared sigmoid", {.score = "sigmoid", .shared = shared}, kSigmoidFormats},
      {"gate", {.shared = shared, .shared_gate = "sigmoid"}, "qwen2_moe"},
      {"gate raw qwen2",
       {.family = "qwen2", .topk_norm = "raw", .shared = shared, .shared_gate = "sigmoid"},
       "qwen2_moe"},
      {"gate unit", {.topk_norm = "unit", .shared = shared, .shared_gate = "sigmoid"}, kNoFormat},
      {"gate sigmoid", {.score = "sigmoid", .shared = shared, .shared_gate = "sigmoid"}, kNoFormat},
      {"gates of softmaxes", {.shared = shared, .shared_gate = "softmax", .gate_rows = 2}, kNoFormat},
      {"qwen2", {.family = "qwen2"}, "granitemoeshared qwen2_moe"},
      {"qwen2 unit", {.family = "qwen2", .topk_norm = "unit"}, "granitemoeshared"},
      {"qwen2 sigmoid", {.family = "qwen2", .score = "sigmoid"}, kSigmoidFormats},
      {"biased", {.keys = biased}, "granitemoeshared"},
      {"biased sigmoid", {.score = "sigmoid", .keys = biased}, kNoFormat},
      {"wide heads", {.keys = wide}, "mixtral"},
      {"wide heads unit", {.topk_norm = "unit", .keys = wide}, kNoFormat},
      {"wide heads sigmoid", {.score = "sigmoid", .keys = wide}, kSigmoidFormats},
      {"first dense", {.widths = first}, "qwen2_moe"},
      {"first dense unit", {.topk_norm = "unit", .widths = first}, kNoFormat},
      {"first dense sigmoid", {.score = "sigmoid", .widths = first}, "glm4_moe"},
      {"last dense", {.widths = last}, "qwen2_moe"},
      {"last dense sigmoid", {.score = "sigmoid", .widths = last}, kNoFormat},
      {"phi", {.family = "phi"}, kNoFormat},
      {"phi sigmoid", {.family = "phi", .score = "sigmoid"}, kNoFormat},
  };
  for (const Row& row : rows) {
    const std::filesystem::path path = folder_ / row.name;
    testing::write_mixture(path, row.spec);
    EXPECT_EQ(formats_of(path), row.formats) << row.name;
  }
}

/// What a method makes of a base, with the default router and with others.
class MethodFormatsTest : public ::testing::TestWithParam<std::tuple<MethodRow, const char*>> {};
INSTANTIATE_TEST_SUITE_P(Methods, MethodFormatsTest,
                         ::testing::Combine(::testing::ValuesIn(kMethodRows), ::testing::Values("llama", "qwen2")),
                         [](const auto& test) {
                           return concat(testing::name_of(std::get<0>(test.param)), "_", std::get<1>(test.param));
                         });

TEST_P(MethodFormatsTest, HoldWhatItMakes) {
  const auto& [row, family] = GetParam();
  const testing::TempDir folder;
  testing::write_dense_model(folder / "dense", testing::tiny_config(family), 11);
  testing::write_calibration(folder / "ids.jsonl", 20, testing::tiny_config().vocab_size, 12);
  const std::filesystem::path converted = folder / "converted";
  testing::convert(testing::spec_of(row, 12, folder / "ids.jsonl"), 7, folder / "dense", converted);
  const auto formats_with = [&](const std::string& score, const std::string& topk_norm) {
    testing::set_router(converted, score, topk_norm);
    return formats_of(converted);
  };
  EXPECT_EQ(formats_of(converted), testing::formats_of_base(family, row.renormalised));
  EXPECT_EQ(formats_with("softmax", "raw"), row.raw);
  EXPECT_EQ(formats_with("sigmoid", "renorm"), row.sigmoids);
  EXPECT_EQ(formats_with("sigmoid", "raw"), row.sigmoids);
  EXPECT_EQ(formats_with("softmax", "unit"), row.ones);
  EXPECT_EQ(formats_with("softmax", "straight_through"), row.ones);
}

TEST(MethodFormatsTable, HasEveryMethodOfTheList) {
  for (const std::string& method : conversion_methods().names()) {
    EXPECT_TRUE(std::any_of(std::begin(kMethodRows), std::end(kMethodRows),
                            [&](const MethodRow& row) { return method == row.method; }))
        << method << ": say which stock formats hold what it makes";
  }
}

}  // namespace
}  // namespace moe
