#include "convert/graph_partition.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "convert/balanced_assignment.h"

namespace moe {
namespace {

class Partition {
 public:
  Partition(const at::Tensor& weights_FF, int64_t parts)
      : weights_(weights_FF.contiguous()),
        nodes_(weights_FF.size(0)),
        parts_(parts),
        part_of_(nodes_, -1),
        pull_(nodes_ * parts, 0) {}

  std::vector<int32_t> run() {
    grow();
    while (exchange_in_all_pairs()) continue;
    return number_by_least_node();
  }

 private:
  const float* row(int64_t node) const { return weights_.const_data_ptr<float>() + node * nodes_; }
  double& pull(int64_t node, int64_t part) { return pull_[node * parts_ + part]; }

  /// A node is there, or no longer: its neighbours feel it.
  void pull_neighbours(int64_t node, int64_t part, double sign) {
    const float* weight = row(node);
    for (int64_t other = 0; other < nodes_; ++other) pull(other, part) += sign * weight[other];
  }

  void grow() {
    std::vector<double> degree(nodes_, 0);
    for (int64_t node = 0; node < nodes_; ++node) {
      for (int64_t other = 0; other < nodes_; ++other) degree[node] += row(node)[other];
    }
    const std::vector<int64_t> sizes = even_capacities(nodes_, parts_);
    for (int64_t part = 0; part < parts_; ++part) {
      for (int64_t size = 0; size < sizes[part]; ++size) {
        int64_t best = -1;
        const auto worth = [&](int64_t node) { return size == 0 ? degree[node] : pull(node, part); };
        for (int64_t node = 0; node < nodes_; ++node) {
          if (part_of_[node] < 0 && (best < 0 || worth(node) > worth(best))) best = node;
        }
        part_of_[best] = static_cast<int32_t>(part);
        pull_neighbours(best, part, 1);
      }
    }
  }

  bool exchange_in_all_pairs() {
    bool has_exchanged = false;
    for (int64_t a = 0; a < parts_; ++a) {
      for (int64_t b = a + 1; b < parts_; ++b) {
        while (exchange_best(a, b)) has_exchanged = true;
      }
    }
    return has_exchanged;
  }

  /// What a node would gain in another part, the largest first.
  using Gains = std::vector<std::pair<double, int64_t>>;
  Gains gains(int64_t from, int64_t to) {
    Gains all;
    for (int64_t node = 0; node < nodes_; ++node) {
      if (part_of_[node] == from) all.emplace_back(pull(node, to) - pull(node, from), node);
    }
    std::sort(all.begin(), all.end(), [](const auto& x, const auto& y) {
      return x.first > y.first || (x.first == y.first && x.second < y.second);
    });
    return all;
  }

  /// Exchanges the two nodes that gain most by it; false if none gain. Both gains are without the edge between the two,
  /// which stays outside of parts: weights are not negative, so their sum is a bound.
  bool exchange_best(int64_t a, int64_t b) {
    const Gains of_a = gains(a, b), of_b = gains(b, a);
    double best = 0;
    int64_t from_a = -1, from_b = -1;
    for (const auto& [gain_a, node_a] : of_a) {
      if (gain_a + of_b.front().first <= best) break;
      const float* weight = row(node_a);
      for (const auto& [gain_b, node_b] : of_b) {
        if (gain_a + gain_b <= best) break;
        const double gain = gain_a + gain_b - 2.0 * weight[node_b];
        if (gain <= best) continue;
        best = gain;
        from_a = node_a;
        from_b = node_b;
      }
    }
    if (from_a < 0) return false;
    move(from_a, a, b);
    move(from_b, b, a);
    return true;
  }

  void move(int64_t node, int64_t from, int64_t to) {
    pull_neighbours(node, from, -1);
    pull_neighbours(node, to, 1);
    part_of_[node] = static_cast<int32_t>(to);
  }

  std::vector<int32_t> number_by_least_node() const {
    std::vector<int32_t> number(parts_, -1), numbered;
    int32_t next = 0;
    for (const int32_t part : part_of_) {
      if (number[part] < 0) number[part] = next++;
      numbered.push_back(number[part]);
    }
    return numbered;
  }

  const at::Tensor weights_;
  int64_t nodes_, parts_;
  std::vector<int32_t> part_of_;
  std::vector<double> pull_;  ///< [nodes, parts]: weight of a node's edges into a part; whole numbers
};

}  // namespace

std::vector<int32_t> balanced_partition(const at::Tensor& weights_FF, int64_t parts) {
  MOE_CHECK(parts >= 1 && weights_FF.size(0) >= parts, parts, " parts of ", weights_FF.size(0), " nodes");
  return Partition(weights_FF, parts).run();
}

double weight_inside(const at::Tensor& weights_FF, const std::vector<int32_t>& part_of) {
  const at::Tensor weights = weights_FF.contiguous();
  const float* weight = weights.const_data_ptr<float>();
  double sum = 0;
  for (size_t i = 0; i < part_of.size(); ++i) {
    for (size_t j = 0; j < part_of.size(); ++j, ++weight) sum += part_of[i] == part_of[j] ? *weight : 0;
  }
  return sum / 2;
}

}  // namespace moe
