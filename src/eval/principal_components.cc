#include "eval/principal_components.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {
namespace {

// Of two directions of nearly the same variance any turn in their plane does.
constexpr int kMostSteps = 100;
constexpr double kSettled = 1e-14;  // 1 less the cosine of a step's turn

using Vector = std::vector<double>;

double product(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void add_multiple(Vector& into, double factor, const Vector& of) {
  for (size_t i = 0; i < into.size(); ++i) into[i] += factor * of[i];
}

std::vector<Vector> centred(const std::vector<std::vector<float>>& points) {
  std::vector<Vector> rows;
  Vector mean(points.front().size(), 0.0);
  for (const std::vector<float>& point : points) {
    rows.emplace_back(point.begin(), point.end());
    add_multiple(mean, 1.0 / static_cast<double>(points.size()), rows.back());
  }
  for (Vector& row : rows) add_multiple(row, -1, mean);
  return rows;
}

/// Coordinates along the direction [points].
Vector along(const std::vector<Vector>& rows, const Vector& direction) {
  Vector coordinates;
  for (const Vector& row : rows) coordinates.push_back(product(row, direction));
  return coordinates;
}

/// Brings it to length 1; false where there is none.
bool normalise(Vector& vector) {
  const double length = std::sqrt(product(vector, vector));
  if (length <= 1e-300) return false;
  for (double& value : vector) value /= length;
  return true;
}

/// The direction of the greatest variance, across the one given if it is not empty; zeros where there is none.
Vector principal_direction(const std::vector<Vector>& rows, const Vector& across) {
  const auto made_across = [&](Vector vector) {
    if (!across.empty()) add_multiple(vector, -product(vector, across), across);
    return vector;
  };
  // What is left of a row beside the direction is rounding where it is far shorter than the row.
  constexpr double kRounding = 1e-24;
  Vector direction;
  double longest = 0;
  for (const Vector& row : rows) longest = std::max(longest, kRounding * product(row, row));
  for (const Vector& row : rows) {
    Vector candidate = made_across(row);
    const double length = product(candidate, candidate);
    if (length > longest) {
      longest = length;
      direction = std::move(candidate);
    }
  }
  const Vector none(rows.front().size(), 0.0);
  if (direction.empty() || !normalise(direction)) return none;
  for (int step = 0; step < kMostSteps; ++step) {
    const Vector coordinates = along(rows, direction);
    Vector next = none;
    for (size_t i = 0; i < rows.size(); ++i) add_multiple(next, coordinates[i], rows[i]);
    next = made_across(std::move(next));
    if (!normalise(next)) return none;
    const double turned = 1 - product(next, direction);
    direction = std::move(next);
    if (turned < kSettled) break;
  }
  const auto greatest = std::max_element(direction.begin(), direction.end(),
                                         [](double a, double b) { return std::abs(a) < std::abs(b); });
  if (*greatest < 0) {
    for (double& value : direction) value = -value;
  }
  return direction;
}

}  // namespace

PlaneProjection principal_plane(const std::vector<std::vector<float>>& points) {
  PlaneProjection plane;
  if (points.empty()) return plane;
  const std::vector<Vector> rows = centred(points);
  double variance = 0;
  for (const Vector& row : rows) variance += product(row, row);
  const Vector first = principal_direction(rows, {}), second = principal_direction(rows, first);
  plane.x = along(rows, first);
  plane.y = along(rows, second);
  if (variance <= 0) return plane;
  plane.share_x = product(plane.x, plane.x) / variance;
  plane.share_y = product(plane.y, plane.y) / variance;
  return plane;
}

}  // namespace moe
