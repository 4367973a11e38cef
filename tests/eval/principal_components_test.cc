#include "eval/principal_components.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moe {
namespace {

// Four points around (5, 5, 5): 3 along (1, 1, 0) / sqrt 2, 1 along (1, -1, 0) / sqrt 2, and 0.
TEST(PrincipalPlaneTest, FindsTheDirectionsOfTheGreatestVariance) {
  const auto root = static_cast<float>(std::sqrt(0.5));
  const std::vector<std::vector<float>> points{{5 + 3 * root, 5 + 3 * root, 5},
                                               {5 - 3 * root, 5 - 3 * root, 5},
                                               {5 + root, 5 - root, 5},
                                               {5 - root, 5 + root, 5}};
  const PlaneProjection plane = principal_plane(points);
  const std::vector<double> x{3, -3, 0, 0};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(plane.x[i], x[i], 1e-5) << i;
    EXPECT_NEAR(std::abs(plane.y[i]), i < 2 ? 0 : 1, 1e-5) << i;
  }
  EXPECT_NEAR(plane.y[2], -plane.y[3], 1e-5);
  EXPECT_NEAR(plane.share_x, 0.9, 1e-6);
  EXPECT_NEAR(plane.share_y, 0.1, 1e-6);
}

TEST(PrincipalPlaneTest, PointsOnALineAndASinglePoint) {
  const PlaneProjection line = principal_plane({{0, 0}, {2, 0}, {4, 0}});
  EXPECT_NEAR(line.x[2], 2, 1e-12);
  EXPECT_NEAR(line.share_x, 1, 1e-12);
  EXPECT_EQ(line.y, (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(line.share_y, 0);
  // Of thirds, whose direction is no number of binary: nothing is left but rounding.
  const PlaneProjection slanted = principal_plane({{0.1F, 0.3F, 0.7F}, {0.2F, 0.6F, 1.4F}, {0.4F, 1.2F, 2.8F}});
  EXPECT_NEAR(slanted.share_x, 1, 1e-12);
  EXPECT_LT(slanted.share_y, 1e-10);
  const PlaneProjection point = principal_plane({{7, 8}});
  EXPECT_EQ(point.x, std::vector<double>{0});
  EXPECT_EQ(point.share_x, 0);
  EXPECT_TRUE(principal_plane({}).x.empty());
}

}  // namespace
}  // namespace moe
