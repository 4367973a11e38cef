#include "pipeline/overrides.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (true) {
    const size_t dot = path.find('.', start);
    parts.push_back(path.substr(start, dot - start));
    if (dot == std::string::npos) return parts;
    start = dot + 1;
  }
}

YamlNode* item_of(YamlNode& list, const std::string& part) {
  const std::vector<std::string> labels = labels_of(list);
  if (const auto label = std::find(labels.begin(), labels.end(), part); label != labels.end()) {
    return &list.items[label - labels.begin()];
  }
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (std::to_string(i) == part) return &list.items[i];
  }
  return nullptr;
}

std::string labels_text(const YamlNode& list) {
  return list.items.empty() ? "the list is empty" : concat("it has: ", comma_separated(labels_of(list)));
}

// The value under `part`, made where it is missing, or nullptr with a problem.
YamlNode* step_into(YamlNode& node, const std::string& part, const std::string& flag, const std::string& path,
                    Problems& problems) {
  switch (node.kind) {
    case YamlNode::Kind::kList:
      if (YamlNode* item = item_of(node, part)) return item;
      problems.push_back({flag, path, concat("no item '", part, "' in this list; ", labels_text(node))});
      return nullptr;
    case YamlNode::Kind::kScalar:
      problems.push_back(
          {flag, path, concat("'", part, "' cannot be set inside the value ", describe(node), " (", node.where, ")")});
      return nullptr;
    case YamlNode::Kind::kNull:
      node.kind = YamlNode::Kind::kMap;
      node.where = flag;
      break;
    case YamlNode::Kind::kMap: break;
  }
  if (YamlNode* value = node.find(part)) return value;
  return &node.add(part, flag);
}

void apply(YamlNode& document, const std::string& assignment, Problems& problems) {
  const std::string flag = concat("--set ", excerpt(assignment));
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    problems.push_back({flag, "", "expected path=value, for example --set stages.stage1.train.steps=100"});
    return;
  }
  const std::string path = assignment.substr(0, equals);
  const std::vector<std::string> parts = split(path);
  if (std::any_of(parts.begin(), parts.end(), [](const std::string& part) { return part.empty(); })) {
    problems.push_back({flag, path, "a part of the path is empty; write names joined by single dots"});
    return;
  }
  const size_t problems_before = problems.size();
  YamlNode value = parse_yaml(assignment.substr(equals + 1), flag, true, problems);
  value.where = flag;
  if (problems.size() != problems_before) return;
  YamlNode* target = &document;
  std::string walked;
  for (const std::string& part : parts) {
    target = step_into(*target, part, flag, walked, problems);
    if (target == nullptr) return;
    walked = join_path(walked, part);
  }
  *target = std::move(value);
}

}  // namespace

void apply_overrides(YamlNode& document, const std::vector<std::string>& assignments, Problems& problems) {
  for (const std::string& assignment : assignments) apply(document, assignment, problems);
}

}  // namespace moe
