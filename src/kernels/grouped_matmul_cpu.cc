// Products and biases of rows in groups on the CPU: those of each group, one after the other or each on a thread.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/error.h"
#include "kernels/cpu_kernels.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"
#include "kernels/thread_tasks.h"

namespace moe::kernels {
namespace {

struct Group {
  int64_t index, first, rows;
};

/// The groups in order. Throws InvalidArgument unless they have `rows` in all.
std::vector<Group> groups_of(const char* op, const RowGroups& given, int64_t rows) {
  std::vector<Group> groups;
  int64_t first = 0;
  for (int64_t g = 0; g < given.count; ++g) {
    groups.push_back({g, first, given.rows[g]});
    first += given.rows[g];
  }
  const bool is_negative = std::any_of(groups.begin(), groups.end(), [](const Group& group) { return group.rows < 0; });
  if (is_negative || first != rows) {
    throw InvalidArgument(concat(op, ": ", given.count, " groups of ", first, " rows in all, ",
                                 is_negative ? "some below 0, " : "", "with ", rows, " rows; expected as many"));
  }
  return groups;
}

template <typename View>
View part_of(const View& view, int64_t first, int64_t rows) {
  View part = view;
  using Bytes = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(part.data)>>, const char, char>;
  part.data = static_cast<Bytes*>(part.data) + first * std::max(view.stride, view.cols) * dtype_size(view.dtype);
  part.rows = rows;
  return part;
}

/// Calls body(group) for all groups, those with most rows first, so that threads end together.
template <typename Body>
void for_each_product(const char* op, const GroupedLinearArgs& args, const Body& body) {
  std::vector<Group> groups = groups_of(op, args.groups, args.a.rows);
  std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.rows > b.rows; });
  for_each_index(args.groups.count, [&](int64_t i) { body(groups[static_cast<size_t>(i)]); });
}

}  // namespace

void grouped_linear_forward_cpu(const GroupedLinearArgs& args) {
  const int64_t outputs = args.c.cols;
  for_each_product("grouped_linear_forward", args, [&](const Group& g) {
    linear_forward(part_of(args.a, g.first, g.rows), part_of(args.b, g.index * outputs, outputs),
                   part_of(args.c, g.first, g.rows));
  });
}

void grouped_linear_input_gradient_cpu(const GroupedLinearArgs& args) {
  const int64_t outputs = args.a.cols;
  for_each_product("grouped_linear_input_gradient", args, [&](const Group& g) {
    linear_input_gradient(part_of(args.a, g.first, g.rows), part_of(args.b, g.index * outputs, outputs),
                          part_of(args.c, g.first, g.rows));
  });
}

void grouped_linear_weight_gradient_cpu(const GroupedLinearArgs& args) {
  const int64_t outputs = args.a.cols;
  for_each_product("grouped_linear_weight_gradient", args, [&](const Group& g) {
    linear_weight_gradient(part_of(args.a, g.first, g.rows), part_of(args.b, g.first, g.rows),
                           part_of(args.c, g.index * outputs, outputs));
  });
}

void grouped_add_bias_cpu(const GroupedAddBiasArgs& args) {
  for (const Group& g : groups_of("grouped_add_bias", args.groups, args.y.rows)) {
    add_bias({part_of(args.bias, g.index, 1).data, args.bias.dtype, args.bias.cols}, part_of(args.y, g.first, g.rows));
  }
}

void grouped_sum_rows_cpu(const GroupedSumRowsArgs& args) {
  for (const Group& g : groups_of("grouped_sum_rows", args.groups, args.x.rows)) {
    sum_rows(part_of(args.x, g.first, g.rows), {part_of(args.sums, g.index, 1).data, args.sums.dtype, args.sums.cols});
  }
}

}  // namespace moe::kernels
