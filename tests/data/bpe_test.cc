#include "data/bpe.h"

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

std::vector<std::string> merge_by_heap(const std::string& text, const std::map<std::string, float>& scores) {
  std::vector<std::string> symbols;
  for (const BpeSymbol& symbol :
       bpe(text, std::vector<size_t>(text.size(), 1), {}, [&scores](std::string_view merged, size_t) -> BpeMerge {
         const auto found = scores.find(std::string(merged));
         return found == scores.end() ? BpeMerge{} : BpeMerge{true, found->second};
       })) {
    symbols.push_back(text.substr(symbol.begin, symbol.size));
  }
  return symbols;
}

std::string random_word(CounterRng& rng, size_t longest) {
  std::string word;
  const size_t length = rng.below(longest + 1);
  for (size_t i = 0; i < length; ++i) word += static_cast<char>('a' + rng.below(3));
  return word;
}

TEST(BpeTest, MergesAsTheDefinitionSaysAlsoWithEqualScores) {
  CounterRng rng(11, kStreamTest);
  int words = 0;
  for (int vocabulary = 0; vocabulary < 200; ++vocabulary) {
    std::map<std::string, float> scores;
    const uint64_t levels = vocabulary % 2 == 0 ? 4 : 1000000;  // many equal scores, or hardly any
    for (int piece = 0; piece < 40; ++piece) {
      if (const std::string text = random_word(rng, 6); text.size() >= 2)
        scores[text] = -static_cast<float>(rng.below(levels));
    }
    for (int i = 0; i < 50; ++i, ++words) {
      const std::string word = random_word(rng, 40);
      ASSERT_EQ(merge_by_heap(word, scores), merge_naively(word, scores)) << word;
    }
  }
  std::cout << words << " words over 200 vocabularies, seed 11, 0 differences\n";
}

TEST(BpeTest, FrozenSymbolsStayWhole) {
  const auto all_merge = [](std::string_view, size_t) { return BpeMerge{true, 0}; };
  const std::vector<BpeSymbol> symbols = bpe("abcdef", {1, 1, 2, 1, 1}, {false, false, true, false, false}, all_merge);
  ASSERT_EQ(symbols.size(), 3U);
  EXPECT_EQ(symbols[0].size, 2U);
  EXPECT_EQ(symbols[1].begin, 2U);
  EXPECT_EQ(symbols[1].size, 2U);
  EXPECT_EQ(symbols[2].begin, 4U);
  EXPECT_TRUE(bpe("", {}, {}, all_merge).empty());
}

}  // namespace
}  // namespace moe
