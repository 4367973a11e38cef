#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "model/decoder.h"
#include "parallel/mesh.h"

namespace moe {

/// A number of each target token (its loss, a hit), summed over them.
struct TokenSum {
  double sum = 0;
  int64_t tokens = 0;

  double mean() const { return tokens > 0 ? sum / static_cast<double>(tokens) : 0; }
};

struct TokenReport {
  std::map<std::string, TokenSum> domains;
  std::vector<std::vector<int64_t>> expert_load;  ///< [layers][experts]: (token, slot) pairs; none in a dense layer
  std::vector<std::vector<int64_t>> attention_expert_load;  ///< of attention's experts that are chosen, the same

  TokenSum total() const;
};

/// What held-out text is read as.
struct HeldOutOptions {
  PackingOptions packing;  ///< shuffle is ignored: file order, one pass
  int64_t max_tokens = 0;  ///< per file; 0: all
};

/// Held-out files, tokenised and packed once; measured as often as wanted.
class HeldOutData {
 public:
  HeldOutData(const std::vector<DataFile>& files, const std::shared_ptr<const Tokenizer>& tokenizer,
              const HeldOutOptions& options);

  struct Part {
    std::unique_ptr<DataLoader> loader;
    int64_t rows = 0;
  };
  std::vector<Part>& parts() { return parts_; }
  int64_t rows() const;
  /// XXH3 of each file as it was read, by its path.
  std::map<std::string, std::string> file_digests() const;

 private:
  std::vector<Part> parts_;
};

/// Some number of each token of a batch whose label is not negative, from the hidden states after the final norm. [T]
using TokenValues = std::function<at::Tensor(const at::Tensor& hidden_TD, const at::Tensor& labels_T)>;

/// Sums of `values` over held-out data, by domain, and the expert load. Collective over
/// mesh.world(): rows are spread over the ranks, all of which join every exchange; sums are in double and the result is
/// the same on every rank, at any layout up to rounding. Computes no gradient. `choice`: a token's place is that among
/// all of the data.
TokenReport measure_tokens(const Decoder& decoder, TokenDispatcher& dispatcher, HeldOutData& data, Mesh& mesh,
                           const TokenValues& values,
                           const std::function<void(int64_t done, int64_t rows)>& progress = {},
                           const PassChoice& choice = {});

/// Loss of a model on held-out data, as measure_tokens sums it.
TokenReport measure_loss(const Decoder& decoder, TokenDispatcher& dispatcher, HeldOutData& data, Mesh& mesh,
                         const std::function<void(int64_t done, int64_t rows)>& progress = {},
                         const PassChoice& choice = {});

}  // namespace moe
