#include "data/bpe.h"

#include <queue>

namespace moe {
namespace {

struct Node {
  size_t begin = 0;
  size_t size = 0;  ///< 0: merged into its left neighbour
  int64_t previous = -1;
  int64_t next = -1;
};

struct Candidate {
  float score = 0;
  int64_t left = 0;
  int64_t right = 0;
  size_t size = 0;  ///< of both when it was found: tells a stale candidate

  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

std::vector<BpeSymbol> bpe(std::string_view text, const std::vector<size_t>& symbol_sizes,
                           const std::vector<bool>& is_frozen,
                           const std::function<BpeMerge(std::string_view merged, size_t left_size)>& merge) {
  std::vector<Node> nodes;
  nodes.reserve(symbol_sizes.size());
  size_t begin = 0;
  for (const size_t size : symbol_sizes) {
    const auto index = static_cast<int64_t>(nodes.size());
    nodes.push_back({begin, size, index - 1, index + 1});
    begin += size;
  }
  if (nodes.empty()) return {};
  nodes.back().next = -1;

  std::priority_queue<Candidate> queue;
  const auto consider = [&](int64_t left, int64_t right) {
    if (left < 0 || right < 0) return;
    if (!is_frozen.empty() && (is_frozen[left] || is_frozen[right])) return;
    const size_t size = nodes[left].size + nodes[right].size;
    const BpeMerge found = merge(text.substr(nodes[left].begin, size), nodes[left].size);
    if (found.exists) queue.push({found.score, left, right, size});
  };
  for (size_t i = 0; i + 1 < nodes.size(); ++i) consider(static_cast<int64_t>(i), static_cast<int64_t>(i) + 1);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Node &left = nodes[best.left], &right = nodes[best.right];
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size = best.size;
    right.size = 0;
    left.next = right.next;
    if (left.next >= 0) nodes[left.next].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }

  std::vector<BpeSymbol> symbols;
  for (int64_t i = 0; i >= 0; i = nodes[i].next) symbols.push_back({nodes[i].begin, nodes[i].size});
  return symbols;
}

}  // namespace moe
