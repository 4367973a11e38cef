#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace moe {

/// The decoder nodes of tokenizer.json. Each turns a row of token texts into another; the result is joined.
struct ByteLevelDecoderNode {};  ///< all tokens become one: the text that their bytes spell
struct ByteFallbackDecoderNode {
};                          ///< runs of "<0xAB>" become the text that they spell, or U+FFFD for each if they spell none
struct FuseDecoderNode {};  ///< all tokens become one
struct StripDecoderNode {
  std::string content;  ///< one character, taken away up to `start` times in front and `stop` times behind
  size_t start = 0, stop = 0;
};
struct ReplaceDecoderNode {
  std::string pattern, content;  ///< plain strings; the pattern is not empty
};
struct MetaspaceDecoderNode {
  std::string replacement;  ///< becomes a space, in the first token nothing if `drops_first`
  bool drops_first = true;
};
using DecoderNode = std::variant<ByteLevelDecoderNode, ByteFallbackDecoderNode, FuseDecoderNode, StripDecoderNode,
                                 ReplaceDecoderNode, MetaspaceDecoderNode>;

/// Why nodes in this order cannot be run token by token; empty if they can. Behind a node that makes all tokens one,
/// only Fuse and a Strip in front may follow: they need not see the end.
std::string why_not_streamable(const std::vector<DecoderNode>& nodes);

/// The nodes at work on tokens that come one by one. Holds back what later tokens may change. One thread uses it.
class TokenDecoders {
 public:
  explicit TokenDecoders(const std::vector<DecoderNode>& nodes);
  TokenDecoders(const TokenDecoders&) = delete;
  TokenDecoders& operator=(const TokenDecoders&) = delete;
  ~TokenDecoders();

  /// Appends what this token completes.
  void push(const std::string& token, std::string& text);
  /// Appends what was held back.
  void finish(std::string& text);

  class Stage;

 private:
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace moe
