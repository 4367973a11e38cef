#include "kernels/grouped_matmul.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/error.h"
#include "kernels/matmul.h"
#include "kernels/thread_tasks.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

struct Group {
  int64_t index, first, rows;
};

/// The groups, those with most rows first, so that threads end together. Throws InvalidArgument.
std::vector<Group> groups_of(const char* op, std::span<const int64_t> rows_per_group, int64_t rows,
                             int64_t weight_rows) {
  std::vector<Group> groups;
  int64_t first = 0;
  for (const int64_t count : rows_per_group) {
    groups.push_back({static_cast<int64_t>(groups.size()), first, count});
    first += count;
  }
  const bool is_negative = std::any_of(groups.begin(), groups.end(), [](const Group& group) { return group.rows < 0; });
  if (groups.empty() || is_negative || first != rows || weight_rows % static_cast<int64_t>(groups.size()) != 0) {
    throw InvalidArgument(concat(op, ": ", groups.size(), " groups of ", first, " rows in all, with ", rows,
                                 " rows and ", weight_rows,
                                 " rows of weights; expected as many rows, and weights of one size"));
  }
  std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.rows > b.rows; });
  return groups;
}

template <typename View>
View rows_of(const View& view, int64_t first, int64_t rows) {
  View part = view;
  using Bytes = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(part.data)>>, const char, char>;
  part.data = static_cast<Bytes*>(part.data) + first * std::max(view.stride, view.cols) * dtype_size(view.dtype);
  part.rows = rows;
  return part;
}

/// Calls body(group) for all groups.
template <typename Body>
void for_each(const std::vector<Group>& groups, const Queue& queue, const Body& body) {
  if (queue.device != DeviceType::kCpu) {
    std::for_each(groups.begin(), groups.end(), body);
  } else {
    for_each_index(static_cast<int64_t>(groups.size()), [&](int64_t i) { body(groups[static_cast<size_t>(i)]); });
  }
}

}  // namespace

void grouped_linear_forward(ConstMatrixView x, ConstMatrixView weights, MatrixView y,
                            std::span<const int64_t> rows_per_group, Queue queue) {
  const std::vector<Group> groups = groups_of("grouped_linear_forward", rows_per_group, x.rows, weights.rows);
  const int64_t outputs = weights.rows / static_cast<int64_t>(groups.size());
  for_each(groups, queue, [&](const Group& g) {
    linear_forward(rows_of(x, g.first, g.rows), rows_of(weights, g.index * outputs, outputs),
                   rows_of(y, g.first, g.rows), queue);
  });
}

void grouped_linear_input_gradient(ConstMatrixView dy, ConstMatrixView weights, MatrixView dx,
                                   std::span<const int64_t> rows_per_group, Queue queue) {
  const std::vector<Group> groups = groups_of("grouped_linear_input_gradient", rows_per_group, dy.rows, weights.rows);
  const int64_t outputs = weights.rows / static_cast<int64_t>(groups.size());
  for_each(groups, queue, [&](const Group& g) {
    linear_input_gradient(rows_of(dy, g.first, g.rows), rows_of(weights, g.index * outputs, outputs),
                          rows_of(dx, g.first, g.rows), queue);
  });
}

void grouped_linear_weight_gradient(ConstMatrixView dy, ConstMatrixView x, MatrixView dweights,
                                    std::span<const int64_t> rows_per_group, Queue queue) {
  const std::vector<Group> groups = groups_of("grouped_linear_weight_gradient", rows_per_group, dy.rows, dweights.rows);
  const int64_t outputs = dweights.rows / static_cast<int64_t>(groups.size());
  for_each(groups, queue, [&](const Group& g) {
    linear_weight_gradient(rows_of(dy, g.first, g.rows), rows_of(x, g.first, g.rows),
                           rows_of(dweights, g.index * outputs, outputs), queue);
  });
}

}  // namespace moe::kernels
