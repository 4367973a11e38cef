#include "data/packing.h"

#include <algorithm>
#include <numeric>

#include "common/error.h"

namespace moe {
namespace {

/// Finds the first row with enough room: a complete binary tree whose nodes hold the largest room below them.
class FreeSpace {
 public:
  FreeSpace(int64_t rows, int64_t capacity) {
    while (leaves_ < rows) leaves_ *= 2;
    room_.assign(2 * leaves_, capacity);
  }

  /// Takes `size` from the first row that has it.
  int64_t take(int64_t size) {
    int64_t node = 1;
    while (node < leaves_) node = room_[2 * node] >= size ? 2 * node : 2 * node + 1;
    room_[node] -= size;
    const int64_t row = node - leaves_;
    for (node /= 2; node >= 1; node /= 2) room_[node] = std::max(room_[2 * node], room_[2 * node + 1]);
    return row;
  }

 private:
  int64_t leaves_ = 1;
  std::vector<int64_t> room_;
};

}  // namespace

std::vector<std::vector<int64_t>> pack_first_fit_decreasing(const std::vector<int64_t>& lengths, int64_t capacity) {
  const auto count = static_cast<int64_t>(lengths.size());
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  FreeSpace space(count, capacity);
  std::vector<std::vector<int64_t>> rows;
  for (const int64_t sample : order) {
    MOE_CHECK(lengths[sample] >= 1 && lengths[sample] <= capacity, "a sample of ", lengths[sample],
              " tokens does not fit a row");
    const int64_t row = space.take(lengths[sample]);
    if (row >= static_cast<int64_t>(rows.size())) rows.resize(row + 1);
    rows[row].push_back(sample);
  }
  for (std::vector<int64_t>& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.front() < b.front(); });
  return rows;
}

}  // namespace moe
