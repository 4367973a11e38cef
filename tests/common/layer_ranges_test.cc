#include "common/layer_ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> messages_of(const std::vector<std::string>& items) {
  std::vector<std::string> messages;
  for (const LayerRangeProblem& problem : layer_range_problems(items))
    messages.push_back(concat(problem.item, ": ", problem.message));
  return messages;
}

std::string refusal_of_layers(const std::vector<std::string>& items, int64_t layers) {
  return testing::message_of([&] { chosen_layers(items, layers, "ffn.layers"); });
}

TEST(LayerRangesTest, NumbersAndRangesChooseTheirLayers) {
  EXPECT_THAT(chosen_layers({}, 3, "f"), ElementsAre(true, true, true));
  EXPECT_THAT(chosen_layers({"1"}, 3, "f"), ElementsAre(false, true, false));
  EXPECT_THAT(chosen_layers({"0", "2-4", "6-"}, 8, "f"), ElementsAre(true, false, true, true, true, false, true, true));
  EXPECT_THAT(chosen_layers({"3-", "1-1", "0"}, 4, "f"), ElementsAre(true, true, false, true)) << "in any order";
  EXPECT_THAT(chosen_layers({"0-"}, 2, "f"), ElementsAre(true, true));
  EXPECT_THAT(chosen_layers({"1-"}, 2, "f"), ElementsAre(false, true)) << "a range of the last layer alone";
}

TEST(LayerRangesTest, WhatIsNoRangeIsNamed) {
  constexpr char kForm[] =
      "' is no layer and no range of layers; write a number from 0 on, FIRST-LAST, or FIRST- for all from there on";
  for (const char* item : {"", "-", "-1", "-2-3", "1,2", "1-2-3", "1 - 2", " 1", "one", "+1", "1.0", "0x1", "*",
                           "99999999999999999999", "1-99999999999999999999"}) {
    EXPECT_THAT(messages_of({item}), ElementsAre(concat("0: '", item, kForm)));
  }
  EXPECT_THAT(messages_of({"0", "5-2", "x"}),
              ElementsAre("1: '5-2' ends before it begins; write the lower layer first", concat("2: 'x", kForm)));
  EXPECT_THAT(messages_of({"0", "2-5", "8-"}), IsEmpty());
}

TEST(LayerRangesTest, ALayerIsNamedOnce) {
  EXPECT_THAT(messages_of({"4", "2-5"}),
              ElementsAre("1: '2-5' names layer 4, which '4' has already; name each layer once"));
  EXPECT_THAT(messages_of({"0-3", "7", "3-", "9-12"}),
              ElementsAre("2: '3-' names layer 3, which '0-3' has already; name each layer once",
                          "3: '9-12' names layer 9, which '3-' has already; name each layer once"));
  EXPECT_THAT(messages_of({"1", "1"}),
              ElementsAre("1: '1' names layer 1, which '1' has already; name each layer once"));
  EXPECT_THAT(messages_of({"0-1", "2-3", "4"}), IsEmpty()) << "neighbours are no overlap";
}

TEST(LayerRangesTest, LayersThatTheModelHasNot) {
  EXPECT_EQ(refusal_of_layers({"0", "2-4"}, 4), "ffn.layers: '2-4' names layer 4, and the model has layers 0 to 3");
  EXPECT_EQ(refusal_of_layers({"4"}, 4), "ffn.layers: '4' names layer 4, and the model has layers 0 to 3");
  EXPECT_EQ(refusal_of_layers({"9-"}, 4), "ffn.layers: '9-' names layer 9, and the model has layers 0 to 3");
  EXPECT_EQ(refusal_of_layers({"0", "x"}, 4).substr(0, 20), "ffn.layers: 'x' is n");
  EXPECT_EQ(refusal_of_layers({"0-3"}, 4), "nothing was thrown");
}

}  // namespace
}  // namespace moe
