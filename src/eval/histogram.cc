#include "eval/histogram.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "common/error.h"

namespace moe {

Histogram::Histogram(double least, double greatest, int64_t bins)
    : least_(least),
      greatest_(greatest),
      bins_per_unit_(static_cast<double>(bins) / (greatest - least)),
      counts_(static_cast<size_t>(bins) + 2, 0) {}

void Histogram::add(double value) {
  if (!(value >= least_)) {
    ++counts_.front();
  } else if (value >= greatest_) {
    ++counts_.back();
  } else {
    // Rounding may take a value just below the end to it.
    const auto bin = static_cast<size_t>((value - least_) * bins_per_unit_);
    ++counts_[1 + std::min(bin, counts_.size() - 3)];
  }
}

Histogram& Histogram::operator+=(const Histogram& other) {
  MOE_CHECK(counts_.size() == other.counts_.size(), "histograms of other bins");
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  return *this;
}

int64_t Histogram::total() const {
  return std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
}

nlohmann::json Histogram::to_json() const {
  return {{"least", least_},
          {"greatest", greatest_},
          {"below", counts_.front()},
          {"above", counts_.back()},
          {"counts", std::vector<int64_t>(counts_.begin() + 1, counts_.end() - 1)}};
}

void Histogram::sum_over_ranks(const std::vector<Histogram*>& histograms, Communicator& world) {
  std::vector<int64_t> all;
  for (const Histogram* histogram : histograms)
    all.insert(all.end(), histogram->counts_.begin(), histogram->counts_.end());
  at::Tensor counts = at::tensor(all, at::kLong);
  world.all_reduce_sum(counts, "histograms");
  const auto* count = counts.const_data_ptr<int64_t>();
  for (Histogram* histogram : histograms) {
    for (int64_t& mine : histogram->counts_) mine = *count++;
  }
}

}  // namespace moe
