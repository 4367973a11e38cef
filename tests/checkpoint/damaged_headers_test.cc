// Damage to safetensors headers made by rule and by chance: refused with a message that names the file, or read as
// something that obeys every rule of the format; never a crash. The sanitizer build runs this too.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <iostream>

#include "checkpoint/safetensors_header.h"
#include "common/error.h"
#include "common/rng.h"
#include "testing/safetensors_bytes.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using testing::safetensors_bytes;

constexpr char kWhere[] = "some/file.safetensors";

/// Whether it is refused (with the file's name, on one screen); what is accepted must tile the file.
bool is_refused(const std::string& bytes) {
  try {
    const SafetensorsHeader header =
        parse_safetensors_header(std::as_bytes(std::span(bytes.data(), bytes.size())), bytes.size(), kWhere);
    uint64_t end = 0;
    for (const SafetensorsEntry& entry : header.entries) {
      EXPECT_EQ(entry.begin, end);
      EXPECT_GE(entry.end, entry.begin);
      end = entry.end;
    }
    EXPECT_EQ(header.data_offset + end, bytes.size());
    return false;
  } catch (const Corruption& error) {
    EXPECT_THAT(error.what(), HasSubstr(kWhere));
    EXPECT_LE(std::strlen(error.what()), 2000U);
    return true;
  }
}

const std::string kGood =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"c":{"dtype":"U8","shape":[],"data_offsets":[14,15]}})";
const std::string kData(15, 'd');

TEST(DamagedHeadersTest, TheUndamagedOneIsRead) {
  EXPECT_FALSE(is_refused(safetensors_bytes(kGood, kData)));
}

TEST(DamagedHeadersTest, EveryShorterFileIsRefused) {
  const std::string whole = safetensors_bytes(kGood, kData);
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_TRUE(is_refused(whole.substr(0, length))) << length << " bytes";
  EXPECT_TRUE(is_refused(whole + "x"));
}

TEST(DamagedHeadersTest, EveryRemovedPieceOfSyntaxIsRefused) {
  int cases = 0;
  for (size_t at = 0; at < kGood.size(); ++at) {
    if (std::strchr("{}[]:,\"", kGood[at]) == nullptr) continue;
    std::string header = kGood;
    EXPECT_TRUE(is_refused(safetensors_bytes(header.erase(at, 1), kData))) << "without byte " << at << ": " << header;
    ++cases;
  }
  std::cout << cases << " headers without one bracket, quote, colon or comma refused\n";
  EXPECT_GE(cases, 60);
}

TEST(DamagedHeadersTest, WhatStandsBehindANulIsSeen) {
  EXPECT_TRUE(is_refused(safetensors_bytes(kGood + std::string("\0hidden", 7), kData)));
  EXPECT_TRUE(is_refused(safetensors_bytes(kGood + std::string(3, '\0'), kData)));
  EXPECT_TRUE(is_refused(safetensors_bytes(kGood + " x", kData)));
  EXPECT_FALSE(is_refused(safetensors_bytes(kGood + "   ", kData)));
}

TEST(DamagedHeadersTest, HostileSizesEndQuickly) {
  std::string numbers = "0";
  for (int i = 0; i < 2'000'000; ++i) numbers += ",0";
  EXPECT_TRUE(
      is_refused(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[)" + numbers + R"(],"data_offsets":[0,0]}})", "")));
  EXPECT_TRUE(is_refused(safetensors_bytes("{\"a\":" + std::string(4'000'000, '['), "")));
  EXPECT_TRUE(is_refused(safetensors_bytes("{" + std::string(4'000'000, '"'), "")));
  EXPECT_TRUE(is_refused(safetensors_bytes("{\"" + std::string(4'000'000, 'n'), "")));
}

TEST(DamagedHeadersTest, RandomDamageNeverGetsThroughUnchecked) {
  const std::string whole = safetensors_bytes(kGood, kData);
  CounterRng rng(20261124, kStreamTest, 3);
  int refused = 0;
  constexpr int kTrials = 50'000;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::string bytes = whole;
    for (uint64_t change = 0; change <= rng.below(3); ++change) {
      const size_t at = rng.below(bytes.size());
      switch (rng.below(4)) {
        case 0: bytes[at] = static_cast<char>(rng.below(256)); break;
        case 1: bytes[at] = "0123456789{}[],:\""[rng.below(17)]; break;
        case 2: bytes.erase(at, 1); break;
        default: bytes.insert(at, 1, bytes[rng.below(bytes.size())]); break;
      }
    }
    refused += is_refused(bytes) ? 1 : 0;
  }
  std::cout << refused << " of " << kTrials
            << " randomly damaged files refused, the others obey every rule (seed 20261124)\n";
  EXPECT_GE(refused, kTrials / 2);
}

}  // namespace
}  // namespace moe
