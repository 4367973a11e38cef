// One balanced clustering of rows in a file, timed: our side of clustering_vs_kmeans_constrained.py, which says how to
// run it. Prints {"seconds", "inertia", "steps"} and writes the cluster of each row, int32, to LABELS.

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "comm/thread_communicator.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/balanced_kmeans.h"

namespace {

struct Options {
  std::string rows, labels;
  int64_t width = 0;
  moe::KMeansOptions clustering{.clusters = 8, .leaves_self_out = true};  // as independent_clustering
};

int run(const Options& options) {
  const std::string bytes = moe::read_file(options.rows);
  const int64_t row_bytes = options.width * static_cast<int64_t>(sizeof(float));
  if (options.width < 1 || bytes.empty() || static_cast<int64_t>(bytes.size()) % row_bytes != 0)
    throw moe::UsageError(moe::concat(options.rows, " is not rows of ", options.width, " floats"));
  at::Tensor rows = at::empty({static_cast<int64_t>(bytes.size()) / row_bytes, options.width});
  std::memcpy(rows.mutable_data_ptr<float>(), bytes.data(), bytes.size());
  const auto world = moe::make_self_communicator();
  const auto start = std::chrono::steady_clock::now();
  const moe::KMeansResult found = moe::balanced_kmeans(rows, options.clustering, *world);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  moe::write_file_atomically(options.labels, std::string(reinterpret_cast<const char*>(found.cluster_of.data()),
                                                         found.cluster_of.size() * sizeof(int32_t)));
  std::cout << nlohmann::json{{"seconds", seconds.count()}, {"inertia", found.inertia}, {"steps", found.steps}} << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Clusters of equal size of rows in a file, timed"};
  Options options;
  app.add_option("ROWS", options.rows, "File of float32, row after row")->required();
  app.add_option("LABELS", options.labels, "File that gets the cluster of each row, int32")->required();
  app.add_option("--width", options.width, "Numbers in a row")->required();
  app.add_option("--clusters", options.clustering.clusters, "Clusters")->capture_default_str();
  app.add_option("--restarts", options.clustering.restarts, "Restarts, of which the best counts")
      ->capture_default_str();
  app.add_option("--tolerance", options.clustering.tolerance,
                 "A step that lowers the inertia by less of it is the last")
      ->capture_default_str();
  app.add_option("--seed", options.clustering.seed, "Seed")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::cerr << "clustering_bench: " << error.what() << "\n";
    return 1;
  }
}
