#pragma once

#include <string>
#include <variant>
#include <vector>

#include "data/tokenizer/aligned_text.h"
#include "data/tokenizer/pretokenizer_patterns.h"

namespace moe {

/// What a Split does with what its pattern matches, as the HF library defines it.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// The pre-tokenizer nodes of tokenizer.json.
struct SplitNode {
  PatternScanner scanner = nullptr;  ///< a known regular expression, or
  std::string text;                  ///< a plain string, not empty
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  ///< what does not match counts as the match
};
struct DigitsNode {
  bool individual = false;
};
struct MetaspaceNode {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement;  ///< one character: what a space becomes
  Prepend prepend = Prepend::kAlways;
  bool split = true;  ///< a word starts at each replacement
};
/// The map from bytes to printable characters itself is the tokenizer's: it works on the bytes.
struct ByteLevelNode {
  bool add_prefix_space = false;
  bool use_regex = true;  ///< GPT-2's pattern
};
using PreTokenizerNode = std::variant<SplitNode, DigitsNode, MetaspaceNode, ByteLevelNode>;

/// Takes the words of a text, in order; none is empty. The view holds until it returns.
class WordSink {
 public:
  virtual ~WordSink() = default;
  virtual void take(const AlignedText& word) = 0;
};

/// Splits a text into words, node after node. Immutable; threads share it, each with a Scratch of its own.
class PreTokenizer {
 public:
  struct Match {
    size_t begin = 0, end = 0;
    bool is_match = false;
  };
  /// Memory of one node for one thread.
  struct Scratch {
    AlignedBuffer buffers[2];
    std::vector<Match> matches;
  };

  explicit PreTokenizer(std::vector<PreTokenizerNode> nodes = {}) : nodes_(std::move(nodes)) {}

  /// `scratch` gets one entry per node.
  void split(const AlignedText& text, std::vector<Scratch>& scratch, WordSink& sink) const;

 private:
  void run(size_t node, const AlignedText& text, std::vector<Scratch>& scratch, WordSink& sink) const;

  std::vector<PreTokenizerNode> nodes_;
};

}  // namespace moe
