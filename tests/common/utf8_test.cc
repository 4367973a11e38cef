#include "common/utf8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace moe {
namespace {

struct Edge {
  std::string bytes;
  size_t bad;  ///< start of Python's UnicodeDecodeError of bytes.decode(), or npos
};

/// THE edges: whoever asks which bytes are UTF-8 asks common/utf8.h.
const std::vector<Edge>& edges() {
  constexpr size_t kNone = std::string::npos;
  using namespace std::string_literals;
  static const std::vector<Edge> all{
      {"", kNone},
      {"\0"s, kNone},
      {"a\x7F", kNone},
      // First and last of each length.
      {"\xC2\x80", kNone},
      {"\xDF\xBF", kNone},
      {"\xE0\xA0\x80", kNone},
      {"\xEF\xBF\xBF", kNone},
      {"\xF0\x90\x80\x80", kNone},
      {"\xF4\x8F\xBF\xBF", kNone},
      // Overlong.
      {"a\xC0\x80", 1},
      {"\xC1\xBF", 0},
      {"\xE0\x80\x80", 0},
      {"\xE0\x9F\xBF", 0},
      {"\xF0\x80\x80\x80", 0},
      {"\xF0\x8F\xBF\xBF", 0},
      // Surrogates, and what stands before and behind them.
      {"\xED\x9F\xBF", kNone},
      {"\xED\xA0\x80", 0},
      {"\xED\xBF\xBF", 0},
      {"\xEE\x80\x80", kNone},
      // Above U+10FFFF.
      {"\xF4\x90\x80\x80", 0},
      {"\xF5\x80\x80\x80", 0},
      {"\xFE", 0},
      {"\xFF", 0},
      // Cut off, by the end or by another character.
      {"\xC2", 0},
      {"ab\xE2\x82", 2},
      {"\xF0\x9F\x98", 0},
      {"\xE2\x82"
       "a",
       0},
      {"\xF0\x9F\xC2\x80", 0},
      // Tails alone.
      {"\x80", 0},
      {"\xC3\xA9\xBF", 2},
      // Behind and across the eight bytes that are looked at in one.
      {"12345678\xFF", 8},
      {"1234567\xC3\xA9", kNone},
      {"1234567\xC3", 7},
      {"1234567812345\xE9"
       "78",
       13},
  };
  return all;
}

TEST(Utf8Test, EdgesAreWherePythonHasThem) {
  for (const Edge& edge : edges()) {
    EXPECT_EQ(find_invalid_utf8(edge.bytes), edge.bad) << ::testing::PrintToString(edge.bytes);
    EXPECT_EQ(is_utf8(edge.bytes), edge.bad == std::string::npos) << ::testing::PrintToString(edge.bytes);
  }
}

/// All strings of one to four of the bytes where a rule begins or ends. How many are bad from which byte on (the last
/// number: none is), and FNV-1a over those places in the order of the strings, are from Python 3.11,
/// `bytes(...).decode()`.
TEST(Utf8Test, AllStringsOfBoundaryBytesAreReadAsPythonReadsThem) {
  constexpr std::array<uint8_t, 25> kBytes{0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
                                           0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
  const std::array<std::vector<int>, 4> expected{
      {{22, 3}, {538, 66, 21}, {13270, 1614, 462, 279}, {331102, 39810, 11298, 6138, 2277}}};
  constexpr std::array<uint64_t, 4> kDigests{0x6939c025191c1772, 0x986d6bc4bea3498e, 0x9815c4cc4326773f,
                                             0xab6dcea839ded169};
  uint64_t digest = 0xcbf29ce484222325;
  for (size_t length = 1; length <= 4; ++length) {
    std::vector<int> counts(length + 1, 0);
    size_t strings = 1;
    for (size_t i = 0; i < length; ++i) strings *= kBytes.size();
    std::string text(length, '\0');
    for (size_t which = 0; which < strings; ++which) {
      for (size_t i = length, rest = which; i-- > 0; rest /= kBytes.size())
        text[i] = static_cast<char>(kBytes[rest % kBytes.size()]);
      const size_t bad = std::min(find_invalid_utf8(text), length);
      ++counts[bad];
      digest = (digest ^ bad) * 0x100000001b3;
    }
    EXPECT_EQ(counts, expected[length - 1]) << length;
    EXPECT_EQ(digest, kDigests[length - 1]) << length;
  }
}

TEST(Utf8Test, EveryCharacterIsWrittenAndReadBack) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(c, text);
    ASSERT_EQ(utf8_length(text, 0), text.size()) << static_cast<uint32_t>(c);
    const CodePoint read = code_point_at(text, 0);
    ASSERT_EQ(read.value, c);
    ASSERT_EQ(read.size, text.size()) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace moe
