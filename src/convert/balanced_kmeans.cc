#include "convert/balanced_kmeans.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/rng.h"
#include "convert/balanced_assignment.h"
#include "model/ops.h"

namespace moe {
namespace {

/// A row below this length has no direction.
constexpr double kShortest = 1e-12;
/// What a thread is given at least.
constexpr int64_t kRowsOfThread = 256, kColumnsOfThread = 64;

/// Squared lengths of rows, [n] double. Here and below sums are made in the order of the rows, so that no bit depends
/// on threads.
std::vector<double> squared_lengths(const at::Tensor& rows_nD) {
  const int64_t width = rows_nD.size(1);
  std::vector<double> sums(rows_nD.size(0), 0);
  at::parallel_for(0, rows_nD.size(0), kRowsOfThread, [&](int64_t first, int64_t last) {
    const float* row = rows_nD.const_data_ptr<float>() + first * width;
    for (int64_t i = first; i < last; ++i, row += width) {
      for (int64_t d = 0; d < width; ++d) sums[i] += static_cast<double>(row[d]) * row[d];
    }
  });
  return sums;
}

/// Sums of the members of each cluster. [N, D] double
at::Tensor sums_of(const at::Tensor& rows_nD, const std::vector<int32_t>& cluster_of, int64_t clusters) {
  const int64_t width = rows_nD.size(1);
  at::Tensor sums_ND = at::zeros({clusters, width}, at::kDouble);
  auto* const sums = sums_ND.mutable_data_ptr<double>();
  at::parallel_for(0, width, kColumnsOfThread, [&](int64_t first, int64_t last) {
    const float* row = rows_nD.const_data_ptr<float>();
    for (const int32_t cluster : cluster_of) {
      double* const sum = sums + cluster * width;
      for (int64_t d = first; d < last; ++d) sum[d] += row[d];
      row += width;
    }
  });
  return sums_ND;
}

std::vector<double> members_of(const std::vector<int32_t>& cluster_of, int64_t clusters) {
  std::vector<double> members(clusters, 0);
  for (const int32_t cluster : cluster_of) ++members[cluster];
  return members;
}

at::Tensor means_of(const at::Tensor& sums_ND, const std::vector<double>& members) {
  return (sums_ND / at::tensor(members, at::kDouble).unsqueeze(1)).to(at::kFloat);
}

/// Rows, divided by their lengths if these do not count, less their mean if that does not.
at::Tensor points_of(const at::Tensor& rows_nD, bool is_unit, bool is_centred) {
  const int64_t points = rows_nD.size(0), width = rows_nD.size(1);
  at::Tensor points_nD = rows_nD.contiguous().clone();
  auto* const all = points_nD.mutable_data_ptr<float>();
  const std::vector<double> lengths = is_unit ? squared_lengths(points_nD) : std::vector<double>(points, 0);
  at::parallel_for(0, points, kRowsOfThread, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const double length = std::sqrt(lengths[i]);
      if (length < kShortest) continue;
      for (float* x = all + i * width; x != all + (i + 1) * width; ++x) *x = static_cast<float>(*x / length);
    }
  });
  if (!is_centred) return points_nD;
  at::Tensor mean_1D = sums_of(points_nD, std::vector<int32_t>(points, 0), 1) / static_cast<double>(points);
  const double* const mean = mean_1D.const_data_ptr<double>();
  at::parallel_for(0, points, kRowsOfThread, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      for (int64_t d = 0; d < width; ++d) all[i * width + d] = static_cast<float>(all[i * width + d] - mean[d]);
    }
  });
  return points_nD;
}

/// Points of a cluster.
struct Sizes {
  std::vector<int64_t> least, most;
};

Sizes sizes_between(int64_t points, int64_t clusters, double jitter) {
  if (jitter == 0) return {even_capacities(points, clusters), even_capacities(points, clusters)};
  const double even = static_cast<double>(points) / static_cast<double>(clusters);
  const double low = std::max(1.0, std::floor(even * (1 - jitter))),
               high = std::min(static_cast<double>(points), std::ceil(even * (1 + jitter)));
  return {std::vector<int64_t>(clusters, static_cast<int64_t>(low)),
          std::vector<int64_t>(clusters, static_cast<int64_t>(high))};
}

/// Lloyd's steps from one start.
class Restart {
 public:
  Restart(const at::Tensor& rows_nD, const std::vector<double>& lengths, const KMeansOptions& options)
      : rows_nD_(rows_nD),
        lengths_(lengths),
        options_(options),
        sizes_(sizes_between(rows_nD.size(0), options.clusters, options.jitter)),
        costs_(lengths.size() * options.clusters) {}

  void run(int64_t number) {
    seed_centres(number);
    double before = std::numeric_limits<double>::infinity();
    for (steps_ = 1;; ++steps_) {
      measure_costs();
      std::vector<int32_t> assigned = bounded_assignment(costs_, sizes_.least, sizes_.most);
      if (assigned == cluster_of_) break;
      const std::vector<int32_t> left = std::exchange(cluster_of_, std::move(assigned));
      update_centres(left);
      if (options_.leaves_self_out && inertia_ > before) {
        cluster_of_ = left;
        inertia_ = before;
        break;
      }
      if (before - inertia_ < options_.tolerance * before || steps_ == options_.max_steps) break;
      before = inertia_;
    }
  }

  double inertia() const { return inertia_; }
  int64_t steps() const { return steps_; }
  const std::vector<int32_t>& cluster_of() const { return cluster_of_; }

 private:
  int64_t points() const { return rows_nD_.size(0); }

  /// k-means++: each next centre is a point, likelier the farther it is from those before.
  void seed_centres(int64_t number) {
    CounterRng rng(options_.seed, options_.stream, options_.substream);
    // Each restart draws a number a cluster; its own come after those of the restarts before it.
    for (int64_t skipped = 0; skipped < number * options_.clusters; ++skipped) rng.uniform();
    std::vector<double> distances(points(), std::numeric_limits<double>::infinity());
    std::vector<int64_t> chosen{static_cast<int64_t>(rng.uniform() * static_cast<double>(points()))};
    while (static_cast<int64_t>(chosen.size()) < options_.clusters) {
      const at::Tensor products_n = ops::linear(rows_nD_, rows_nD_.narrow(0, chosen.back(), 1)).flatten();
      const float* product = products_n.const_data_ptr<float>();
      for (int64_t i = 0; i < points(); ++i) {
        const double squared = lengths_[i] + lengths_[chosen.back()] - 2.0 * product[i];
        distances[i] = std::min(distances[i], std::max(0.0, squared));
      }
      chosen.push_back(draw(distances, rng.uniform()));
    }
    centres_ND_ = rows_nD_.index_select(0, at::tensor(chosen, at::kLong));
  }

  /// The point at which the running sum passes `share` of the whole; where all distances are 0, that of its number.
  static int64_t draw(const std::vector<double>& weights, double share) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    if (!(sum > 0)) return static_cast<int64_t>(share * static_cast<double>(weights.size()));
    double running = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      running += weights[i];
      if (running > share * sum) return static_cast<int64_t>(i);
    }
    return static_cast<int64_t>(weights.size()) - 1;
  }

  void measure_costs() {
    const at::Tensor products_nN = ops::linear(rows_nD_, centres_ND_).contiguous();
    const float* product = products_nN.const_data_ptr<float>();
    const std::vector<double> centre_lengths = squared_lengths(centres_ND_);
    double* cost = costs_.data();
    for (const double length : lengths_) {
      for (const double centre_length : centre_lengths) {
        const double squared = length + centre_length - 2.0 * *product;
        *cost++ = is_cosine() ? 1 - *product / std::max(std::sqrt(centre_length), kShortest)
                  : options_.distance == KMeansDistance::kEuclidean ? std::sqrt(std::max(0.0, squared))
                                                                    : squared;
        ++product;
      }
    }
    if (options_.leaves_self_out && !cluster_of_.empty()) leave_self_out();
  }

  /// Squared distances to means become what the inertia loses and gains.
  void leave_self_out() {
    const std::vector<double> members = members_of(cluster_of_, options_.clusters);
    double* cost = costs_.data();
    for (const int32_t own : cluster_of_) {
      for (int32_t c = 0; c < options_.clusters; ++c) {
        const double size = members[c];
        // A point alone is its mean: it costs nothing there.
        *cost++ *= c != own ? size / (size + 1) : size > 1 ? size / (size - 1) : 0;
      }
    }
  }

  /// Those of the clusters that points left or came to. Their last bits are those of the way there.
  void move_sums(const std::vector<int32_t>& left) {
    const int64_t width = rows_nD_.size(1);
    auto* const sums = sums_ND_.mutable_data_ptr<double>();
    for (size_t i = 0; i < left.size(); ++i) {
      if (left[i] == cluster_of_[i]) continue;
      const float* const row = rows_nD_.const_data_ptr<float>() + static_cast<int64_t>(i) * width;
      double *const from = sums + left[i] * width, *const to = sums + cluster_of_[i] * width;
      for (int64_t d = 0; d < width; ++d) from[d] -= row[d];
      for (int64_t d = 0; d < width; ++d) to[d] += row[d];
    }
  }

  /// The sum of squared distances to the new centres is that of the lengths less what the means explain; of cosines to
  /// them, the length of the members' sum.
  void update_centres(const std::vector<int32_t>& left) {
    if (left.empty() || !options_.leaves_self_out) {
      sums_ND_ = sums_of(rows_nD_, cluster_of_, options_.clusters);
    } else {
      move_sums(left);
    }
    const std::vector<double> members = members_of(cluster_of_, options_.clusters);
    centres_ND_ = means_of(sums_ND_, members);
    inertia_ = is_cosine() ? static_cast<double>(points()) : std::accumulate(lengths_.begin(), lengths_.end(), 0.0);
    const double* sum = sums_ND_.const_data_ptr<double>();
    for (const double size : members) {
      double squared = 0;
      for (int64_t d = 0; d < sums_ND_.size(1); ++d, ++sum) squared += *sum * *sum;
      inertia_ -= is_cosine() ? std::sqrt(squared) : squared / size;
    }
  }

  bool is_cosine() const { return options_.distance == KMeansDistance::kCosine; }

  const at::Tensor& rows_nD_;
  const std::vector<double>& lengths_;
  const KMeansOptions& options_;
  Sizes sizes_;
  std::vector<double> costs_;  ///< [n, N]
  at::Tensor centres_ND_;
  at::Tensor sums_ND_;  ///< of members, double
  std::vector<int32_t> cluster_of_;
  double inertia_ = 0;
  int64_t steps_ = 0;
};

/// What a rank tells of its best restart, as bytes: the ranks are of one gang and one architecture.
struct Found {
  double inertia = std::numeric_limits<double>::infinity();
  int64_t number = 0;
  int64_t steps = 0;
};

std::string to_bytes(const Found& found, const std::vector<int32_t>& cluster_of) {
  std::string bytes(sizeof(Found) + cluster_of.size() * sizeof(int32_t), '\0');
  std::memcpy(bytes.data(), &found, sizeof(Found));
  if (!cluster_of.empty())
    std::memcpy(bytes.data() + sizeof(Found), cluster_of.data(), cluster_of.size() * sizeof(int32_t));
  return bytes;
}

/// Clusters in the order of their least points.
void number_by_least_point(std::vector<int32_t>& cluster_of, int64_t clusters) {
  std::vector<int32_t> number(clusters, -1);
  int32_t next = 0;
  for (int32_t& cluster : cluster_of) {
    if (number[cluster] < 0) number[cluster] = next++;
    cluster = number[cluster];
  }
}

}  // namespace

at::Tensor spherical_rows(const at::Tensor& rows_nD) {
  return points_of(rows_nD, /*is_unit=*/true, /*is_centred=*/true);
}

at::Tensor cluster_means(const at::Tensor& rows_nD, const std::vector<int32_t>& cluster_of, int64_t clusters) {
  return means_of(sums_of(rows_nD.contiguous(), cluster_of, clusters), members_of(cluster_of, clusters));
}

KMeansResult balanced_kmeans(const at::Tensor& rows_nD, const KMeansOptions& options, Communicator& world) {
  if (options.clusters < 1 || rows_nD.size(0) < options.clusters) {
    throw_agreed<InvalidArgument>(
        concat("convert: ", rows_nD.size(0), " points cannot be ", options.clusters, " clusters; use fewer"));
  }
  const at::NoGradGuard no_grad;
  const bool is_cosine = options.distance == KMeansDistance::kCosine;
  MOE_CHECK(!is_cosine || options.is_spherical, "cosines are of directions");
  MOE_CHECK(!is_cosine || !options.leaves_self_out, "the means of others are of squared distances");
  const at::Tensor points_nD = points_of(rows_nD, options.is_spherical, !is_cosine);
  const std::vector<double> lengths = squared_lengths(points_nD);
  Found best;
  std::vector<int32_t> cluster_of;
  for (int64_t number = world.rank(); number < options.restarts; number += world.size()) {
    Restart restart(points_nD, lengths, options);
    restart.run(number);
    if (restart.inertia() >= best.inertia) continue;
    best = {restart.inertia(), number, restart.steps()};
    cluster_of = restart.cluster_of();
  }
  for (const std::string& bytes :
       world.all_gather_bytes_after_work(to_bytes(best, cluster_of), "clusters of restarts")) {
    Found found;
    std::memcpy(&found, bytes.data(), sizeof(Found));
    const bool is_better =
        found.inertia < best.inertia || (found.inertia == best.inertia && found.number < best.number);
    if (bytes.size() == sizeof(Found) || !is_better) continue;
    best = found;
    cluster_of.resize((bytes.size() - sizeof(Found)) / sizeof(int32_t));
    std::memcpy(cluster_of.data(), bytes.data() + sizeof(Found), bytes.size() - sizeof(Found));
  }
  number_by_least_point(cluster_of, options.clusters);
  const at::Tensor centres_ND = cluster_means(points_nD, cluster_of, options.clusters);
  return {std::move(cluster_of), centres_ND, best.inertia, best.steps};
}

}  // namespace moe
