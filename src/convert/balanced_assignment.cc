#include "convert/balanced_assignment.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "common/error.h"

namespace moe {
namespace {

constexpr double kFar = std::numeric_limits<double>::infinity();

class Assignment {
 public:
  Assignment(std::span<const double> costs, std::span<const int64_t> capacities)
      : costs_(costs),
        clusters_(static_cast<int32_t>(capacities.size())),
        cluster_of_(costs.size() / capacities.size()),
        surplus_(capacities.size()),
        heaps_(capacities.size() * capacities.size()),
        potential_(capacities.size(), 0) {
    for (size_t c = 0; c < capacities.size(); ++c) surplus_[c] = -capacities[c];
    for (size_t point = 0; point < cluster_of_.size(); ++point) {
      const auto row = costs_.subspan(point * capacities.size(), capacities.size());
      cluster_of_[point] = static_cast<int32_t>(std::min_element(row.begin(), row.end()) - row.begin());
      ++surplus_[cluster_of_[point]];
    }
    fill_heaps();
  }

  std::vector<int32_t> solve() {
    for (int32_t source = 0; source < clusters_; ++source) {
      while (surplus_[source] > 0) move_one(source);
    }
    return std::move(cluster_of_);
  }

 private:
  /// A point of some cluster and what it would cost more in another.
  using Move = std::pair<double, int32_t>;
  using Heap = std::vector<Move>;  ///< least first; entries of points that left stay until they come up

  double cost(int32_t point, int32_t cluster) const {
    return costs_[static_cast<size_t>(point) * static_cast<size_t>(clusters_) + static_cast<size_t>(cluster)];
  }
  Heap& heap(int32_t from, int32_t to) { return heaps_[static_cast<size_t>(from) * surplus_.size() + to]; }
  Move move_of(int32_t point, int32_t from, int32_t to) const { return {cost(point, to) - cost(point, from), point}; }

  void fill_heaps() {
    for (size_t point = 0; point < cluster_of_.size(); ++point) {
      const int32_t from = cluster_of_[point];
      for (int32_t to = 0; to < clusters_; ++to) {
        if (to != from) heap(from, to).push_back(move_of(static_cast<int32_t>(point), from, to));
      }
    }
    for (Heap& moves : heaps_) std::make_heap(moves.begin(), moves.end(), std::greater<>());
  }

  /// The cheapest move from a cluster to another; null if the first is empty.
  const Move* cheapest(int32_t from, int32_t to) {
    Heap& moves = heap(from, to);
    while (!moves.empty() && cluster_of_[moves.front().second] != from) {
      std::pop_heap(moves.begin(), moves.end(), std::greater<>());
      moves.pop_back();
    }
    return moves.empty() ? nullptr : &moves.front();
  }

  /// Shortest paths from `source` until a cluster with room is reached, which is returned. Costs less potentials are
  /// not negative, but for rounding.
  int32_t nearest_with_room(int32_t source) {
    distance_.assign(surplus_.size(), kFar);
    before_.assign(surplus_.size(), -1);
    is_final_.assign(surplus_.size(), false);
    distance_[source] = 0;
    while (true) {
      int32_t at = -1;
      for (int32_t c = 0; c < clusters_; ++c) {
        if (!is_final_[c] && distance_[c] < (at < 0 ? kFar : distance_[at])) at = c;
      }
      // Every cluster is one arc away from one that has points, and the capacities have room for all.
      if (at < 0) throw Internal("balanced_assignment: no cluster has room");
      is_final_[at] = true;
      if (surplus_[at] < 0) return at;
      for (int32_t to = 0; to < clusters_; ++to) {
        if (is_final_[to]) continue;
        const Move* move = cheapest(at, to);
        if (move == nullptr) continue;
        const double reduced = std::max(0.0, move->first + potential_[at] - potential_[to]);
        if (distance_[at] + reduced < distance_[to]) {
          distance_[to] = distance_[at] + reduced;
          before_[to] = at;
        }
      }
    }
  }

  void move_one(int32_t source) {
    const int32_t target = nearest_with_room(source);
    for (int32_t c = 0; c < clusters_; ++c) {
      if (is_final_[c]) potential_[c] += distance_[c] - distance_[target];
    }
    // The points are chosen before the first moves: one that arrives is not the one that leaves.
    std::vector<std::pair<int32_t, int32_t>> moves;  // point, to
    for (int32_t to = target; to != source; to = before_[to]) moves.emplace_back(cheapest(before_[to], to)->second, to);
    for (const auto& [point, to] : moves) {
      cluster_of_[point] = to;
      for (int32_t next = 0; next < clusters_; ++next) {
        if (next == to) continue;
        Heap& onward = heap(to, next);
        onward.push_back(move_of(point, to, next));
        std::push_heap(onward.begin(), onward.end(), std::greater<>());
      }
    }
    --surplus_[source];
    ++surplus_[target];
  }

  std::span<const double> costs_;
  int32_t clusters_;
  std::vector<int32_t> cluster_of_;
  std::vector<int64_t> surplus_;  ///< points above the capacity; negative: room
  std::vector<Heap> heaps_;       ///< [from, to]
  std::vector<double> potential_;
  std::vector<double> distance_;
  std::vector<int32_t> before_;
  std::vector<bool> is_final_;
};

}  // namespace

std::vector<int32_t> balanced_assignment(std::span<const double> costs_nN, std::span<const int64_t> capacities_N) {
  const auto room = std::accumulate(capacities_N.begin(), capacities_N.end(), int64_t{0});
  const bool has_negative = std::any_of(capacities_N.begin(), capacities_N.end(), [](int64_t c) { return c < 0; });
  if (capacities_N.empty() || has_negative || costs_nN.size() % capacities_N.size() != 0 ||
      costs_nN.size() / capacities_N.size() > static_cast<size_t>(room)) {
    throw Internal(concat("balanced_assignment: ", costs_nN.size(), " costs for ", capacities_N.size(),
                          " clusters with room for ", room));
  }
  return Assignment(costs_nN, capacities_N).solve();
}

std::vector<int32_t> bounded_assignment(std::span<const double> costs_nN, std::span<const int64_t> least_N,
                                        std::span<const int64_t> most_N) {
  const size_t clusters = most_N.size();
  std::vector<int32_t> cluster_of = balanced_assignment(costs_nN, most_N);
  if (least_N.size() != clusters ||
      std::accumulate(least_N.begin(), least_N.end(), int64_t{0}) > static_cast<int64_t>(cluster_of.size())) {
    throw Internal(concat("bounded_assignment: ", cluster_of.size(), " points are fewer than the clusters must have"));
  }
  std::vector<int64_t> sizes(clusters, 0);
  for (const int32_t cluster : cluster_of) ++sizes[cluster];
  if (std::equal(sizes.begin(), sizes.end(), least_N.begin(), std::greater_equal<>())) return cluster_of;

  // To take one more of these seats costs less than a move into every cluster.
  const auto [low, high] = std::minmax_element(costs_nN.begin(), costs_nN.end());
  const double bonus = 1 + (*high - *low) * static_cast<double>(clusters + 2);
  std::vector<double> costs(costs_nN.size() * 2);
  for (size_t point = 0; point < cluster_of.size(); ++point) {
    for (size_t c = 0; c < clusters; ++c) {
      const double cost = costs_nN[point * clusters + c];
      costs[point * 2 * clusters + c] = cost - bonus;
      costs[point * 2 * clusters + clusters + c] = cost;
    }
  }
  std::vector<int64_t> seats(least_N.begin(), least_N.end());
  for (size_t c = 0; c < clusters; ++c) seats.push_back(most_N[c] - least_N[c]);
  cluster_of = balanced_assignment(costs, seats);
  for (int32_t& cluster : cluster_of) cluster %= static_cast<int32_t>(clusters);
  return cluster_of;
}

std::vector<int64_t> even_capacities(int64_t n, int64_t clusters) {
  std::vector<int64_t> capacities(clusters, n / clusters);
  for (int64_t c = 0; c < n % clusters; ++c) ++capacities[c];
  return capacities;
}

}  // namespace moe
