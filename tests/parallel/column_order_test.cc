#include "parallel/column_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/error.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using testing::random_normal;

/// 101 rows of 4 columns: normal numbers, some of which are there several times, zeros of both signs, small and large.
at::Tensor values_of(at::ScalarType dtype) {
  at::Tensor values = random_normal({101, 4}, 1, dtype);
  values.slice(0, 20, 40).copy_(values.slice(0, 0, 20));
  values.select(1, 1).slice(0, 50, 70).zero_();
  values.select(1, 1).slice(0, 55, 60).mul_(-1.0);
  values.select(1, 2).mul_(1e-30);
  values.select(1, 3).mul_(1e30);
  return values;
}

double by_sorting(const at::Tensor& values, int64_t column, int64_t rank) {
  std::vector<double> sorted;
  for (int64_t t = 0; t < values.size(0); ++t) sorted.push_back(values[t][column].item<double>());
  std::sort(sorted.rbegin(), sorted.rend());
  return sorted[static_cast<size_t>(rank - 1)];
}

TEST(ColumnOrderTest, IsWhatSortingSaysWhereverTheRowsLie) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor values = values_of(dtype);
    for (const int64_t rank : {1, 2, 37, 60, 100, 101}) {
      for (const int ranks : {1, 2, 4}) {
        testing::run_ranks(ranks, [&](Communicator& world) {
          // Uneven shares in two parts; the last rank has the rest.
          const int64_t begin = std::min<int64_t>(101, 17 * world.rank()),
                        end = world.rank() + 1 == ranks ? 101 : 17 * (world.rank() + 1),
                        middle = begin + (end - begin) / 3;
          const at::Tensor found =
              ranked_of_columns({values.slice(0, begin, middle), values.slice(0, middle, end)}, rank, world);
          ASSERT_EQ(found.sizes(), std::vector<int64_t>{4});
          EXPECT_EQ(found.scalar_type(), dtype);
          for (int64_t column = 0; column < 4; ++column)
            EXPECT_EQ(found[column].item<double>(), by_sorting(values, column, rank)) << rank << " of " << column;
        });
      }
    }
  }
}

TEST(ColumnOrderTest, RanksWithoutRowsJoinIn) {
  const at::Tensor values = values_of(at::kFloat);
  testing::run_ranks(3, [&](Communicator& world) {
    const at::Tensor mine = world.rank() == 1 ? values : values.narrow(0, 0, 0);
    EXPECT_EQ(ranked_of_columns({mine}, 5, world)[0].item<double>(), by_sorting(values, 0, 5));
    EXPECT_THROW(ranked_of_columns({mine}, 102, world), Internal);
  });
}

}  // namespace
}  // namespace moe
