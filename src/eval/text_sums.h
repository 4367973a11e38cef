#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace moe {

/// Sums over text, told apart by domain: each row of text by itself, and the rows in their order, so that the sums are
/// the same bits at any number of ranks. A few thousand numbers a row: all rows are kept, and gathered once.
class TextSums {
 public:
  TextSums(size_t domains, size_t values) : domains_(domains), values_(values) {}

  /// What this row has of this domain, from zeros on: [values]. A row is one rank's.
  double* of(int64_t row, size_t domain);

  /// [domains][values] over all rows of all ranks; the same on each. Collective.
  std::vector<std::vector<double>> total(Communicator& world, std::string_view op) const;

 private:
  size_t domains_, values_;
  std::map<std::pair<int64_t, size_t>, std::vector<double>> sums_;  ///< by row and domain
};

/// Element by element over the domains, in their order.
std::vector<double> over_domains(const std::vector<std::vector<double>>& by_domain);

}  // namespace moe
