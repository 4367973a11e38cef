#include "convert/graph_partition.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "convert/balanced_assignment.h"

namespace moe {
namespace {

/// Nodes of a part among which an exchange is looked for first.
constexpr size_t kCandidates = 32;

class Partition {
 public:
  Partition(const EdgeWeights& weights, int64_t parts)
      : weights_(weights),
        nodes_(weights.nodes()),
        parts_(parts),
        work_left_(32 * nodes_ * nodes_ + 10'000'000),
        part_of_(nodes_, -1),
        members_(parts),
        pull_(static_cast<size_t>(parts * nodes_), 0) {}

  std::vector<int32_t> run() {
    grow();
    while (exchange_in_all_pairs()) continue;
    return number_by_least_node();
  }

 private:
  /// [nodes]: weight of the edges of every node into a part.
  int64_t* pull(int64_t part) { return pull_.data() + part * nodes_; }

  void grow() {
    std::vector<int64_t> degree(nodes_, 0);
    for (int64_t node = 0; node < nodes_; ++node) {
      const uint16_t* const weight = weights_.row(node);
      for (int64_t other = 0; other < nodes_; ++other) degree[node] += weight[other];
    }
    const std::vector<int64_t> sizes = even_capacities(nodes_, parts_);
    for (int64_t part = 0; part < parts_; ++part) {
      int64_t* const pulls = pull(part);
      for (int64_t size = 0; size < sizes[part]; ++size) {
        const int64_t* const worth = size == 0 ? degree.data() : pulls;
        int64_t best = -1;
        for (int64_t node = 0; node < nodes_; ++node) {
          if (part_of_[node] < 0 && (best < 0 || worth[node] > worth[best])) best = node;
        }
        part_of_[best] = static_cast<int32_t>(part);
        members_[part].push_back(static_cast<int32_t>(best));
        const uint16_t* const weight = weights_.row(best);
        for (int64_t other = 0; other < nodes_; ++other) pulls[other] += weight[other];
      }
    }
  }

  bool exchange_in_all_pairs() {
    bool has_exchanged = false;
    for (int64_t a = 0; a < parts_; ++a) {
      for (int64_t b = a + 1; b < parts_; ++b) {
        while (work_left_ > 0 && exchange_best(a, b)) has_exchanged = true;
      }
    }
    return has_exchanged;
  }

  /// A node of a part, and what it alone would gain in another.
  struct Gain {
    int64_t gain;
    int32_t node;
    bool operator<(const Gain& other) const {  // the largest first
      return gain > other.gain || (gain == other.gain && node < other.node);
    }
  };
  using Gains = std::vector<Gain>;
  /// The first `sorted` are the largest, in their order.
  Gains gains(int64_t from, int64_t to, size_t sorted) {
    const int64_t *const here = pull(from), *const there = pull(to);
    Gains all;
    all.reserve(members_[from].size());
    for (const int32_t node : members_[from]) all.push_back({there[node] - here[node], node});
    work_left_ -= static_cast<int64_t>(all.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<int64_t>(std::min(sorted, all.size())), all.end());
    return all;
  }

  struct Exchange {
    int64_t gain = 0;
    int32_t from_a = -1, from_b = -1;
  };
  /// The best exchange of one of the first `count` nodes of each; without a gain if there is none. Both gains are
  /// without the edge between the two, which stays outside of parts: weights are not negative, so their sum is a bound.
  Exchange best_of(const Gains& of_a, const Gains& of_b, size_t count) {
    Exchange best;
    for (size_t i = 0; i < std::min(count, of_a.size()); ++i) {
      if (of_a[i].gain + of_b.front().gain <= best.gain) break;
      const uint16_t* const weight = weights_.row(of_a[i].node);
      size_t j = 0;
      for (; j < std::min(count, of_b.size()); ++j) {
        const int64_t bound = of_a[i].gain + of_b[j].gain;
        if (bound <= best.gain) break;
        const int64_t gain = bound - 2 * static_cast<int64_t>(weight[of_b[j].node]);
        if (gain > best.gain) best = {gain, of_a[i].node, of_b[j].node};
      }
      work_left_ -= static_cast<int64_t>(j) + 1;
    }
    return best;
  }

  /// Exchanges two nodes that gain by it; false if none do.
  bool exchange_best(int64_t a, int64_t b) {
    Gains of_a = gains(a, b, kCandidates), of_b = gains(b, a, kCandidates);
    Exchange best = best_of(of_a, of_b, kCandidates);
    if (best.gain == 0 && of_a.front().gain + of_b.front().gain > 0) {
      std::sort(of_a.begin(), of_a.end());
      std::sort(of_b.begin(), of_b.end());
      best = best_of(of_a, of_b, nodes_);
    }
    if (best.gain == 0) return false;
    exchange(a, best.from_a, b, best.from_b);
    return true;
  }

  void exchange(int64_t a, int32_t from_a, int64_t b, int32_t from_b) {
    part_of_[from_a] = static_cast<int32_t>(b);
    part_of_[from_b] = static_cast<int32_t>(a);
    *std::find(members_[a].begin(), members_[a].end(), from_a) = from_b;
    *std::find(members_[b].begin(), members_[b].end(), from_b) = from_a;
    const uint16_t *const left = weights_.row(from_a), *const came = weights_.row(from_b);
    int64_t *const pull_a = pull(a), *const pull_b = pull(b);
    for (int64_t other = 0; other < nodes_; ++other) {
      const int64_t change = static_cast<int64_t>(came[other]) - static_cast<int64_t>(left[other]);
      pull_a[other] += change;
      pull_b[other] -= change;
    }
    work_left_ -= nodes_;
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

  const EdgeWeights& weights_;
  int64_t nodes_, parts_;
  int64_t work_left_;  ///< pairs of nodes that may still be looked at
  std::vector<int32_t> part_of_;
  std::vector<std::vector<int32_t>> members_;  ///< of each part
  std::vector<int64_t> pull_;                  ///< [parts, nodes]
};

}  // namespace

std::vector<int32_t> balanced_partition(const EdgeWeights& weights, int64_t parts) {
  MOE_CHECK(parts >= 1 && weights.nodes() >= parts, parts, " parts of ", weights.nodes(), " nodes");
  return Partition(weights, parts).run();
}

double weight_inside(const EdgeWeights& weights, const std::vector<int32_t>& part_of) {
  double sum = 0;
  for (size_t i = 0; i < part_of.size(); ++i) {
    const uint16_t* const weight = weights.row(static_cast<int64_t>(i));
    for (size_t j = 0; j < i; ++j) sum += part_of[i] == part_of[j] ? weight[j] : 0;
  }
  return sum;
}

}  // namespace moe
