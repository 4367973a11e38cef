#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "comm/communicator.h"

namespace moe {

/// A token that was drawn, and what is known of it.
struct SampledToken {
  int64_t domain = 0, row = 0, token = 0;
  int64_t label = 0;
  std::vector<float> values;
};

/// Tokens of text by lot, as many of each domain. A token's lot depends on its row and its place there alone, so that
/// the same are drawn at any number of ranks. Holds no more than it will give.
class TokenSample {
 public:
  TokenSample(size_t domains, size_t most_of_a_domain) : most_(most_of_a_domain), kept_(domains) {}

  /// Of this rank. Keeps a copy of the values [count] if the token is among those drawn so far.
  void offer(int64_t row, size_t domain, int64_t token, const double* values, int64_t count, int64_t label);

  /// Those of all ranks by domain, row and token; the same on each. Collective: all have offered values of one count.
  std::vector<SampledToken> drawn(int64_t count, Communicator& world) const;

 private:
  using Lot = std::tuple<uint64_t, int64_t, int64_t>;  ///< then row and token, should two be alike

  size_t most_;
  std::vector<std::map<Lot, SampledToken>> kept_;  ///< by domain
};

}  // namespace moe
