#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/problem.h"

/// A YAML document as a tree that hides nothing: duplicate keys, quoting and the line of every value stay visible.
/// yaml-cpp's own tree resolves anchors and aliases silently; ours is built from the parser's events and refuses them.
namespace moe {

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  /// Where it was written: "file:line" or the flag.
  std::string where;
  /// kScalar: its text, and whether it was written without quotes.
  std::string scalar;
  bool is_plain = false;
  /// kList: the items.
  std::vector<YamlNode> items;
  /// kMap: the keys as written, duplicates included, and their values.
  std::vector<std::pair<YamlNode, YamlNode>> entries;

  /// The value under a key (the first, if it is there twice), or nullptr.
  const YamlNode* find(std::string_view key) const;
  YamlNode* find(std::string_view key);
  /// kMap: a key that was not there, with no value yet.
  YamlNode& add(const std::string& key, const std::string& written_at);
};

/// "null", "text 'abc'", "a list of 3", "a section": for messages.
std::string describe(const YamlNode& node);

/// Names by which the items of a list are addressed in paths and by `--set`: the `name` of an item, or of the gate
/// inside it.
std::vector<std::string> labels_of(const YamlNode& list);

/// Parses one document. `where` is the file's name; every node gets "where:line", or with `is_flag` just `where`.
/// Syntax errors, anchors, aliases, tags and a second document are added to `problems`; what could be read is returned.
YamlNode parse_yaml(const std::string& text, const std::string& where, bool is_flag, Problems& problems);

}  // namespace moe
