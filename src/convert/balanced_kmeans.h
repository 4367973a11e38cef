#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "comm/communicator.h"

// n points, D dimensions, N clusters.
namespace moe {

/// How far a point is from a centre.
enum class KMeansDistance {
  kSquared,    ///< |x - c|^2, of rows less their mean
  kEuclidean,  ///< |x - c|, of rows less their mean; centres stay means, so that a step may raise the inertia, of
               ///< squares
  kCosine,     ///< 1 - cos(x, c), of rows as they are; for directions
};

struct KMeansOptions {
  int64_t clusters = 0;
  uint64_t seed = 0;
  uint32_t stream = 0;      ///< CounterRng's, of the purpose
  uint32_t substream = 0;   ///< and of the layer
  int64_t restarts = 3;     ///< from other first centres; the best one counts
  int64_t max_steps = 100;  ///< of one restart
  double tolerance = 1e-5;  ///< a step that lowers the inertia by less of it is the last
  /// Clusters have floor(n / N (1 - jitter)) to ceil(n / N (1 + jitter)) points, and one at least. 0: by one at most
  /// unequal, the first centres' are the larger ones. kAnySize: ordinary k-means.
  double jitter = 0;
  bool is_spherical = true;  ///< points are the directions of the rows; else the rows
  KMeansDistance distance = KMeansDistance::kSquared;
  /// Points are compared with the means of the other points, as Hartigan does: what the inertia loses where one leaves
  /// a cluster of s, s / (s - 1) times its squared distance, and gains where it comes, s / (s + 1) times it. In many
  /// dimensions nearly all of a point's nearness to its own mean is its own share of it, by which Lloyd's steps stop
  /// far too early: of 4096 points in 1024 dimensions an inertia of 3919 against 3916. A step that raises the inertia
  /// is undone and the last. Of squared distances.
  bool leaves_self_out = false;
};

inline constexpr double kAnySize = std::numeric_limits<double>::infinity();

struct KMeansResult {
  std::vector<int32_t> cluster_of;  ///< [n]; clusters are numbered by their least point
  at::Tensor centres_ND;            ///< float: means of the members, as they are clustered
  double inertia = 0;               ///< sum of distances to them
  int64_t steps = 0;                ///< of the restart that counts
};

/// Clusters of rows of the sizes that are asked for (equal ones, unless the options say otherwise), with a low sum of
/// distances to their means. Lloyd's algorithm with an exact assignment (convert/balanced_assignment.h), which never
/// raises the inertia, from k-means++ centres. A step reads the points twice, with leaves_self_out once and then those
/// that moved. Restarts are spread over the ranks; the result is the same on every rank and at any number of them, bit
/// for bit. Collective; `rows_nD` is the same on every rank, float.
/// Source   LLaMA-MoE (arXiv:2406.16554) for the balance; Arthur & Vassilvitskii 2007 (k-means++);
///          Telgarsky & Vattani 2010 (Hartigan's method).
/// Throws   InvalidArgument, on every rank, if there are fewer points than clusters.
KMeansResult balanced_kmeans(const at::Tensor& rows_nD, const KMeansOptions& options, Communicator& world);

/// Rows as they are clustered by squared distances: divided by their lengths (shorter ones than 1e-12 stay), less the
/// mean of all. [n, D], float
at::Tensor spherical_rows(const at::Tensor& rows_nD);

/// Means of the rows of each cluster, each of which has one; summed in their order, in double. [N, D], float
at::Tensor cluster_means(const at::Tensor& rows_nD, const std::vector<int32_t>& cluster_of, int64_t clusters);

}  // namespace moe
