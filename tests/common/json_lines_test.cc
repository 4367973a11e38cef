#include "common/json_lines.h"

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

TEST(JsonLinesTest, ATornLastLineIsLeftOut) {
  const testing::TempDir folder;
  write_file_atomically(folder / "m.jsonl", "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3, \"lo");
  const auto lines = read_json_lines(folder / "m.jsonl");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["step"], 2);
}

// A line without its newline is whole if it parses.
TEST(JsonLinesTest, WhatIsNoObjectIsLeftOut) {
  const testing::TempDir folder;
  write_file_atomically(folder / "m.jsonl", "\n[1]\n7\nnull\n\xff\xfe\n{\"step\": 4}");
  const auto lines = read_json_lines(folder / "m.jsonl");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["step"], 4);
}

TEST(JsonLinesTest, NoFileNoLines) {
  const testing::TempDir folder;
  EXPECT_TRUE(read_json_lines(folder / "absent.jsonl").empty());
}

}  // namespace
}  // namespace moe
