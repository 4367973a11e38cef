#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "data/tokenizer/aligned_text.h"
#include "data/tokenizer/nfc.h"

namespace moe {

/// The normaliser nodes of tokenizer.json.
struct PrependNode {
  std::string text;  ///< put before a text that is not empty
};
struct ReplaceNode {
  std::string pattern, content;  ///< plain strings; the pattern is not empty
};
struct NfcNode {
  std::shared_ptr<const Nfc> nfc;
};
using NormalizerNode = std::variant<PrependNode, ReplaceNode, NfcNode>;

/// What happens to a text before it is split, node after node. Immutable; safe to share between threads.
class Normalizer {
 public:
  static constexpr size_t kMostGrowth = 64;

  explicit Normalizer(std::vector<NormalizerNode> nodes = {}) : nodes_(std::move(nodes)) {}

  /// `text` itself where nothing changes, else a view of one of the buffers. Throws InvalidArgument if it becomes more
  /// than kMostGrowth times as long (beyond the first kilobyte): then the file is not a tokenizer's.
  AlignedText apply(const AlignedText& text, AlignedBuffer (&buffers)[2]) const;

 private:
  std::vector<NormalizerNode> nodes_;
};

}  // namespace moe
