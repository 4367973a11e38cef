// Groups of calibration tokens: what they are, on planted text, and that ranks do not change a bit of them.
#include "convert/token_groups.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <mutex>

#include "common/error.h"
#include "convert/feature_clusters.h"
#include "convert/router_init.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kHidden = 16;

/// Text of documents, each a range of rows of `rows_TD`.
struct Text {
  at::Tensor rows_TD;
  std::vector<int64_t> cu_seqlens{0};
};

using Grouping = std::function<TokenGroups(const LayerInputs&, const std::vector<at::Tensor>& hidden, Communicator&)>;

/// Groups the text, documents spread over `ranks` as evenly as they go; `check` sees each rank's groups and tokens.
void group(const Text& text, int ranks, const Grouping& grouping,
           const std::function<void(const TokenGroups&, int64_t first)>& check) {
  std::mutex mutex;
  testing::run_ranks(ranks, [&](Communicator& world) {
    const auto documents = static_cast<int64_t>(text.cu_seqlens.size()) - 1;
    const int64_t begin = documents * world.rank() / ranks, end = documents * (world.rank() + 1) / ranks;
    LayerFeatures features;
    features.ffn_inputs = {text.rows_TD.slice(0, text.cu_seqlens[begin], text.cu_seqlens[end]), text.cu_seqlens[begin],
                           text.cu_seqlens.back()};
    features.cu_seqlens.clear();
    for (int64_t d = begin; d <= end; ++d) features.cu_seqlens.push_back(text.cu_seqlens[d] - text.cu_seqlens[begin]);
    const ModelConfig config = testing::tiny_config();
    v1::ConvertSpec spec;
    spec.mutable_ffn()->set_method("importance");
    const LayerInputs inputs{.config = config, .spec = spec, .layer = 1, .seed = 9, .features = &features};
    // The middle of two layers is behind the first.
    const at::Tensor nothing = at::zeros_like(features.ffn_inputs.local_TD);
    const TokenGroups groups = grouping(inputs, {nothing, features.ffn_inputs.local_TD, nothing}, world);
    const std::lock_guard<std::mutex> lock(mutex);
    check(groups, text.cu_seqlens[begin]);
  });
}

Grouping by_text(int64_t groups) {
  return [groups](const LayerInputs& inputs, const std::vector<at::Tensor>& hidden, Communicator& world) {
    return group_by_text(inputs, hidden, groups, world);
  };
}

Grouping by_router(int64_t groups) {
  return [groups](const LayerInputs& inputs, const std::vector<at::Tensor>&, Communicator& world) {
    return group_by_router(inputs, groups, world);
  };
}

/// Twelve documents of three subjects, 5, 4 and 3 of them: directions of their own in every token, and a first token
/// that is the same in all and a thousand times longer.
Text text_of_subjects(const std::vector<int64_t>& subjects) {
  Text text;
  std::vector<at::Tensor> documents;
  const at::Tensor directions = testing::random_normal({3, kHidden}, 4, at::kFloat);
  for (size_t document = 0; document < subjects.size(); ++document) {
    const int64_t tokens = 3 + static_cast<int64_t>(document) % 4;
    at::Tensor rows =
        directions[subjects[document]] + 0.2 * testing::random_normal({tokens, kHidden}, 50 + document, at::kFloat);
    rows[0] = at::full({kHidden}, 1000.0);
    documents.push_back(rows);
    text.cu_seqlens.push_back(text.cu_seqlens.back() + tokens);
  }
  text.rows_TD = at::cat(documents);
  return text;
}

TEST(TokenGroupsTest, DocumentsOfASubjectAreAGroupInTheOrderOfTheText) {
  const std::vector<int64_t> subjects{2, 0, 2, 1, 0, 0, 2, 1, 0, 1, 0, 2}, expected{0, 1, 0, 2, 1, 1, 0, 2, 1, 2, 1, 0};
  const Text text = text_of_subjects(subjects);
  for (const int ranks : {1, 2, 4}) {
    int64_t tokens = 0;
    group(text, ranks, by_text(3), [&](const TokenGroups& groups, int64_t first) {
      EXPECT_EQ(groups.count, 3);
      EXPECT_FALSE(groups.rows_GD.defined());
      for (int64_t t = 0; t < groups.ids_T.size(0); ++t, ++tokens) {
        size_t document = 0;
        while (text.cu_seqlens[document + 1] <= first + t) ++document;
        EXPECT_EQ(groups.ids_T[t].item<int64_t>(), expected[document]) << "document " << document << ", " << ranks;
      }
    });
    EXPECT_EQ(tokens, text.cu_seqlens.back());
  }
}

TEST(TokenGroupsTest, FewerDocumentsThanGroupsAreRefused) {
  EXPECT_THAT(
      [] {
        group(text_of_subjects({0, 1, 2}), 1, by_text(4), [](const TokenGroups&, int64_t) {});
      },
      ThrowsMessage<InvalidArgument>(::testing::AllOf(HasSubstr("ffn.method importance"),
                                                      HasSubstr("there are 3 for 4 groups"),
                                                      HasSubstr("calibration.tokens"), HasSubstr("clusters: router"))));
}

/// Rows are the means of three planted groups of equal size, and a token goes where the product is largest: not to the
/// nearest one, since the rows are of different length.
TEST(TokenGroupsTest, TokensGoToTheLargestProductWithACentroid) {
  Text text;
  at::Tensor rows = testing::random_normal({60, kHidden}, 8, at::kFloat) * 0.3;
  for (int64_t t = 0; t < 60; ++t) rows[t][t % 3] += t % 3 == 0 ? 2.0 : t % 3 == 1 ? 8.0 : 20.0;
  // A common direction, in which the third group is strongest: some of the first fall to it.
  for (int64_t t = 0; t < 60; ++t) rows[t][5] += t % 3 == 0 ? 0.25 : t % 3 == 1 ? 1.0 : 6.0;
  text.rows_TD = rows;
  for (int64_t end = 5; end <= 60; end += 5) text.cu_seqlens.push_back(end);
  std::vector<at::Tensor> means;
  for (int64_t g = 0; g < 3; ++g) means.push_back(rows.slice(0, g, 60, 3).to(at::kDouble).mean(0));
  const at::Tensor expected = at::stack(means), products = at::matmul(rows.to(at::kDouble), expected.t());

  at::Tensor one;
  int64_t not_nearest = 0;
  for (const int ranks : {1, 2, 4}) {
    group(text, ranks, by_router(3), [&](const TokenGroups& groups, int64_t first) {
      EXPECT_EQ(groups.count, 3);
      EXPECT_TRUE(testing::near(groups.rows_GD, expected, 1e-6));
      if (ranks == 1) one = groups.rows_GD;
      EXPECT_TRUE(at::equal(groups.rows_GD, one)) << ranks;
      for (int64_t t = 0; t < groups.ids_T.size(0); ++t) {
        const int64_t id = groups.ids_T[t].item<int64_t>();
        EXPECT_EQ(id, products[first + t].argmax().item<int64_t>()) << first + t;
        not_nearest += id == (first + t) % 3 ? 0 : 1;
      }
    });
  }
  EXPECT_GT(not_nearest, 0) << "product and distance must differ somewhere";
}

/// The router that the option `router.init: hidden_clustering` makes raw has the groups' rows.
TEST(TokenGroupsTest, HiddenClusteringHasTheSameRows) {
  Text text;
  text.rows_TD = testing::random_normal({90, kHidden}, 3, at::kFloat);
  for (int64_t end = 9; end <= 90; end += 9) text.cu_seqlens.push_back(end);
  at::Tensor rows;
  group(text, 2, by_router(5), [&](const TokenGroups& groups, int64_t) { rows = groups.rows_GD; });
  const CalibrationFeatures features{text.rows_TD, 0, 90};
  const at::Tensor router =
      router_inits()
          .at("hidden_clustering")
          .make({.experts = 5,
                 .hidden_size = kHidden,
                 .layer = 1,
                 .seed = 9,
                 .scaling = "raw",
                 .features = &features,
                 .options = MethodOptions(router_inits().at("hidden_clustering").options, {}, false, "", "")},
                *make_self_communicator())
          .weights.weight_ED;
  EXPECT_TRUE(at::equal(router, rows));
}

/// Clusters look at evenly spread tokens of a long text.
TEST(FeatureCentroidsTest, LooksAtAPartOfALongText) {
  constexpr int64_t kTokens = 20000;
  at::Tensor rows = at::zeros({kTokens, 2}, at::kFloat);
  rows.slice(0, 0, kTokens / 2).fill_(1);
  rows.slice(0, kTokens / 2, kTokens).fill_(-3);
  for (const int ranks : {1, 3}) {
    testing::run_ranks(ranks, [&](Communicator& world) {
      const int64_t first = kTokens * world.rank() / ranks, last = kTokens * (world.rank() + 1) / ranks;
      const at::Tensor found =
          feature_centroids({rows.slice(0, first, last), first, kTokens}, {.clusters = 2, .seed = 1}, "a test", world);
      EXPECT_TRUE(at::equal(found, at::tensor({1.F, 1.F, -3.F, -3.F}).view({2, 2}))) << found;
    });
  }
  EXPECT_THAT(
      [&] {
        feature_centroids({rows.slice(0, 0, 3), 0, 3}, {.clusters = 4, .seed = 1}, "router.init x",
                          *make_self_communicator());
      },
      ThrowsMessage<InvalidArgument>(
          HasSubstr("router.init x clusters the calibration tokens, and there are 3 for experts 4")));
}

}  // namespace
}  // namespace moe
