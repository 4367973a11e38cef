// Gathering rows and columns against LibTorch's index_select, bit for bit, for every size of element.
#include "checkpoint/index_gather.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

at::Tensor as_tensor(const IndexList& indices) {
  return at::tensor(*indices, at::kInt).to(at::kLong);
}

/// Lists of unlike lengths; 0 twice, 12 in none.
const std::vector<IndexList> kPicks{index_list({3, 0, 11}), index_list({7}), index_list({}),
                                    index_list({10, 9, 8, 6, 5, 4, 2, 1, 0})};

class IndexGatherTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, IndexGatherTest, ::testing::Values(at::kBFloat16, at::kHalf, at::kFloat, at::kDouble),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

TEST_P(IndexGatherTest, RowsAndColumnsEqualIndexSelect) {
  for (const int64_t rows : {0, 1, 3, 4, 7, 16}) {  // columns are gathered four rows at a time
    const at::Tensor by_row = testing::random_normal({13, rows}, 1).to(GetParam()), by_column = by_row.t().contiguous();
    std::vector<at::Tensor> columns;
    for (const IndexList& pick : kPicks)
      columns.push_back(at::empty({rows, static_cast<int64_t>(pick->size())}, by_row.options()));
    gather_columns(by_column, kPicks, columns);
    for (size_t e = 0; e < kPicks.size(); ++e) {
      at::Tensor picked = at::empty({static_cast<int64_t>(kPicks[e]->size()), rows}, by_row.options());
      gather_rows(by_row, *kPicks[e], picked);
      EXPECT_TRUE(at::equal(picked, by_row.index_select(0, as_tensor(kPicks[e])))) << rows << " values, list " << e;
      EXPECT_TRUE(at::equal(columns[e], by_column.index_select(1, as_tensor(kPicks[e]))))
          << rows << " rows, list " << e;
    }
  }
}

TEST(IndexGatherTest, RefusesAnotherTypeOrSize) {
  const at::Tensor matrix = at::zeros({13, 4});
  at::Tensor narrow = at::zeros({3, 4}, at::kBFloat16), short_one = at::zeros({2, 4});
  EXPECT_THROW(gather_rows(matrix, {1, 2, 3}, narrow), Internal);
  EXPECT_THROW(gather_rows(matrix, {1, 2, 3}, short_one), Internal);
  std::vector<at::Tensor> too_few{at::zeros({4, 3})};
  EXPECT_THROW(gather_columns(matrix.t().contiguous(), kPicks, too_few), Internal);
}

}  // namespace
}  // namespace moe
