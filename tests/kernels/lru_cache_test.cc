#include "kernels/lru_cache.h"

#include <gtest/gtest.h>

namespace moe::kernels {
namespace {

TEST(LruCacheTest, DropsTheValueThatWasUsedLongestAgo) {
  LruCache<1, int> cache(2);
  int made = 0;
  const auto get = [&](int64_t key) { return cache.get({key}, [&] { return ++made; }); };
  EXPECT_EQ(get(10), 1);
  EXPECT_EQ(get(20), 2);
  EXPECT_EQ(get(10), 1);
  EXPECT_EQ(get(30), 3);  // drops 20
  EXPECT_EQ(get(10), 1);
  EXPECT_EQ(get(20), 4);
  EXPECT_EQ(made, 4);
}

TEST(LruCacheTest, KeysDifferInAnyWord) {
  LruCache<3, int> cache(10);
  int made = 0;
  const auto make = [&] { return ++made; };
  EXPECT_EQ(cache.get({1, 2, 3}, make), 1);
  EXPECT_EQ(cache.get({3, 2, 1}, make), 2);
  EXPECT_EQ(cache.get({1, 2, 4}, make), 3);
  EXPECT_EQ(cache.get({1, 2, 3}, make), 1);
}

TEST(LruCacheTest, AFailedMakeLeavesNothingBehind) {
  LruCache<1, int> cache(2);
  EXPECT_THROW(cache.get({1}, []() -> int { throw 5; }), int);
  EXPECT_EQ(cache.get({1}, [] { return 7; }), 7);
}

}  // namespace
}  // namespace moe::kernels
