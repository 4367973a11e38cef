#include "data/tokenizer/pretokenizer.h"

#include <algorithm>

#include "data/tokenizer/unicode_classes.h"

namespace moe {
namespace {

using Match = PreTokenizer::Match;
using Scratch = PreTokenizer::Scratch;

/// Adds [begin, end) as a match, and what lies between it and the one before as none.
void add_match(size_t begin, size_t end, std::vector<Match>& matches) {
  const size_t done = matches.empty() ? 0 : matches.back().end;
  if (done < begin) matches.push_back({done, begin, false});
  matches.push_back({begin, end, true});
}

void add_rest(size_t size, std::vector<Match>& matches) {
  const size_t done = matches.empty() ? 0 : matches.back().end;
  if (done < size) matches.push_back({done, size, false});
}

/// Joins the stretches of `matches` as the behaviour says; those left with is_match are to be removed.
void join(SplitBehavior behavior, std::vector<Match>& matches) {
  if (behavior == SplitBehavior::kRemoved) return;
  const bool is_reverse = behavior == SplitBehavior::kMergedWithNext;
  if (is_reverse) std::reverse(matches.begin(), matches.end());
  size_t kept = 0;
  bool previous = false;
  for (const Match match : matches) {
    const bool joins = kept > 0 && (behavior == SplitBehavior::kContiguous
                                        ? match.is_match == previous
                                        : behavior != SplitBehavior::kIsolated && match.is_match && !previous);
    previous = match.is_match;
    if (joins) {
      matches[kept - 1].begin = std::min(matches[kept - 1].begin, match.begin);
      matches[kept - 1].end = std::max(matches[kept - 1].end, match.end);
    } else {
      matches[kept++] = {match.begin, match.end, false};
    }
  }
  matches.resize(kept);
  if (is_reverse) std::reverse(matches.begin(), matches.end());
}

void emit(const AlignedText& text, const std::vector<Match>& matches, WordSink& sink) {
  for (const Match& match : matches) {
    if (!match.is_match) sink.take(text.substr(match.begin, match.end - match.begin));
  }
}

/// Every piece that the scanner finds.
void scan(PatternScanner scanner, const AlignedText& text, WordSink& sink) {
  for (size_t at = 0; at < text.bytes.size();) {
    const size_t end = scanner(text.bytes, at);
    sink.take(text.substr(at, end - at));
    at = end;
  }
}

void apply_node(const SplitNode& node, const AlignedText& text, Scratch& scratch, WordSink& sink) {
  if (node.scanner != nullptr && node.behavior == SplitBehavior::kIsolated) return scan(node.scanner, text, sink);
  std::vector<Match>& matches = scratch.matches;
  matches.clear();
  if (node.scanner != nullptr) {
    for (size_t at = 0; at < text.bytes.size(); at = matches.back().end)
      add_match(at, node.scanner(text.bytes, at), matches);
  } else {
    for (size_t at = text.bytes.find(node.text); at != std::string_view::npos;) {
      add_match(at, at + node.text.size(), matches);
      at = text.bytes.find(node.text, matches.back().end);
    }
    add_rest(text.bytes.size(), matches);
  }
  for (Match& match : matches) match.is_match = match.is_match != node.invert;
  join(node.behavior, matches);
  emit(text, matches, sink);
}

void apply_node(const DigitsNode& node, const AlignedText& text, Scratch& scratch, WordSink& sink) {
  std::vector<Match>& matches = scratch.matches;
  matches.clear();
  for (size_t at = 0; at < text.bytes.size();) {
    const CodePoint c = code_point_at(text.bytes, at);
    if ((UnicodeClasses::get().of(c.value) & UnicodeClasses::kDigit) != 0) add_match(at, at + c.size, matches);
    at += c.size;
  }
  add_rest(text.bytes.size(), matches);
  join(node.individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, matches);
  emit(text, matches, sink);
}

void apply_node(const MetaspaceNode& node, const AlignedText& text, Scratch& scratch, WordSink& sink) {
  AlignedText now = with_replaced(text, " ", node.replacement, scratch.buffers[0]);
  const bool wants_prefix = node.prepend == MetaspaceNode::Prepend::kAlways ||
                            (node.prepend == MetaspaceNode::Prepend::kFirst && now.source_of(0, 1).begin == 0);
  if (wants_prefix && !now.bytes.starts_with(node.replacement))
    now = with_prefix(now, node.replacement, scratch.buffers[1]);
  if (!node.split) return sink.take(now);
  apply_node(SplitNode{.scanner = nullptr, .text = node.replacement, .behavior = SplitBehavior::kMergedWithNext}, now,
             scratch, sink);
}

void apply_node(const ByteLevelNode& node, const AlignedText& text, Scratch& scratch, WordSink& sink) {
  static const PatternScanner gpt2 = scanner_of(kGpt2Pattern);
  const bool wants_prefix = node.add_prefix_space && !text.bytes.starts_with(' ');
  const AlignedText now = wants_prefix ? with_prefix(text, " ", scratch.buffers[0]) : text;
  if (!node.use_regex) return sink.take(now);
  scan(gpt2, now, sink);
}

}  // namespace

void PreTokenizer::run(size_t node, const AlignedText& text, std::vector<Scratch>& scratch, WordSink& sink) const {
  /// Hands each piece to the next node.
  class Next final : public WordSink {
   public:
    Next(const PreTokenizer& owner, size_t node, std::vector<Scratch>& scratch, WordSink& sink)
        : owner_(owner), node_(node), scratch_(scratch), sink_(sink) {}
    void take(const AlignedText& word) override { owner_.run(node_, word, scratch_, sink_); }

   private:
    const PreTokenizer& owner_;
    size_t node_;
    std::vector<Scratch>& scratch_;
    WordSink& sink_;
  };
  if (node == nodes_.size()) return sink.take(text);
  const auto apply = [&](WordSink& next) {
    std::visit([&](const auto& kind) { apply_node(kind, text, scratch[node], next); }, nodes_[node]);
  };
  if (node + 1 == nodes_.size()) return apply(sink);
  Next next(*this, node + 1, scratch, sink);
  apply(next);
}

void PreTokenizer::split(const AlignedText& text, std::vector<Scratch>& scratch, WordSink& sink) const {
  if (text.bytes.empty()) return;
  scratch.resize(nodes_.size());
  run(0, text, scratch, sink);
}

}  // namespace moe
