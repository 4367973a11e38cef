#include "data/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <string>

#include "common/rng.h"

namespace moe {
namespace {

/// The definition, word for word: look at all neighbours, merge the best pair (the leftmost among equals), repeat.
std::vector<std::string> merge_naively(const std::string& text, const std::map<std::string, float>& scores) {
  std::vector<std::string> symbols;
  for (const char letter : text) symbols.emplace_back(1, letter);
  while (true) {
    size_t best = symbols.size();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = scores.find(symbols[i] + symbols[i + 1]);
      if (found == scores.end()) continue;
      if (best == symbols.size() || found->second > scores.at(symbols[best] + symbols[best + 1])) best = i;
    }
    if (best == symbols.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

std::vector<std::string> merge_by_bpe(const std::string& text, const std::map<std::string, float>& scores, Bpe& bpe) {
  std::vector<BpeSymbol> symbols;
  for (uint32_t i = 0; i < text.size(); ++i) symbols.push_back({i, 1, -1});
  bpe.run(symbols, [&](const BpeSymbol& left, const BpeSymbol& right) -> BpeMerge {
    const auto found = scores.find(text.substr(left.begin, left.size + right.size));
    return found == scores.end() ? BpeMerge{} : BpeMerge{static_cast<uint32_t>(-found->second), 0};
  });
  std::vector<std::string> parts;
  for (const BpeSymbol& symbol : symbols) parts.push_back(text.substr(symbol.begin, symbol.size));
  return parts;
}

std::string random_word(CounterRng& rng, size_t longest) {
  std::string word;
  const size_t length = rng.below(longest + 1);
  for (size_t i = 0; i < length; ++i) word += static_cast<char>('a' + rng.below(3));
  return word;
}

TEST(BpeTest, MergesAsTheDefinitionSaysAlsoWithEqualScores) {
  CounterRng rng(11, kStreamTest);
  Bpe bpe;
  int words = 0;
  for (int vocabulary = 0; vocabulary < 200; ++vocabulary) {
    std::map<std::string, float> scores;
    const uint64_t levels = vocabulary % 2 == 0 ? 4 : 1000000;  // many equal scores, or hardly any
    for (int piece = 0; piece < 40; ++piece) {
      if (const std::string text = random_word(rng, 6); text.size() >= 2)
        scores[text] = -static_cast<float>(rng.below(levels));
    }
    for (int i = 0; i < 50; ++i, ++words) {
      const std::string word = random_word(rng, 4 * Bpe::kFew);  // by scan and by heap
      ASSERT_EQ(merge_by_bpe(word, scores, bpe), merge_naively(word, scores)) << word;
    }
  }
  std::cout << words << " words over 200 vocabularies, seed 11, 0 differences\n";
}

TEST(BpeTest, KeepsTheIdsOfWhatItMerged) {
  // (1, 2) -> 3 before (3, 1) -> 4; the pair (2, 1) does not merge.
  const auto merge_of = [](const BpeSymbol& left, const BpeSymbol& right) -> BpeMerge {
    if (left.id == 1 && right.id == 2) return {0, 3};
    if (left.id == 3 && right.id == 1) return {1, 4};
    return {};
  };
  for (const uint32_t repeats : {1U, 20U}) {
    std::vector<BpeSymbol> symbols;
    for (uint32_t i = 0; i < 3 * repeats; ++i) symbols.push_back({i, 1, i % 3 == 1 ? 2 : 1});
    Bpe().run(symbols, merge_of);
    ASSERT_EQ(symbols.size(), repeats);
    for (uint32_t i = 0; i < repeats; ++i) {
      EXPECT_EQ(symbols[i].id, 4);
      EXPECT_EQ(symbols[i].begin, 3 * i);
      EXPECT_EQ(symbols[i].size, 3U);
    }
  }
  std::vector<BpeSymbol> none;
  Bpe().run(none, merge_of);
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace moe
