#include "pipeline/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <sstream>

#include "common/error.h"

namespace moe {
namespace {

// Builds the tree bottom-up: open lists and maps stand on a stack, a finished node goes into the one below it.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(std::string where, bool is_flag, Problems& problems)
      : where_(std::move(where)), is_flag_(is_flag), problems_(problems) {}

  YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) problems_.push_back({at(mark), "", "a second YAML document; write one per file"});
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    finish(make(mark, YamlNode::Kind::kNull));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    problems_.push_back({at(mark), "", "an alias (*name); aliases are not allowed, write the value out"});
    finish(make(mark, YamlNode::Kind::kNull));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    YamlNode node = make(mark, YamlNode::Kind::kScalar);
    node.scalar = value;
    if (!is_utf8(value)) {
      problems_.push_back({node.where, "",
                           concat("not UTF-8 ('", excerpt(value), "'); ",
                                  is_flag_ ? "write the value" : "save the file", " as UTF-8")});
      node.scalar = printable(value);  // messages and RPCs about the rest of the file go on with it
    }
    node.is_plain = tag == "?";
    finish(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

  // yaml-cpp counts lines from 0.
  std::string at(const YAML::Mark& mark) const { return is_flag_ ? where_ : concat(where_, ":", mark.line + 1); }

 private:
  YamlNode make(const YAML::Mark& mark, YamlNode::Kind kind) const {
    YamlNode node;
    node.kind = kind;
    node.where = at(mark);
    return node;
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) {
      problems_.push_back(
          {at(mark), "", "an anchor (&name); anchors are not allowed, write the value out where it is used"});
    }
  }

  // "?" is a plain scalar or an untagged collection, "!" a quoted scalar.
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag != "?" && tag != "!" && !tag.empty()) {
      problems_.push_back(
          {at(mark), "", concat("a tag (", excerpt(tag), "); tags are not allowed, the schema knows every type")});
    }
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    open_.push_back({make(mark, kind), {}});
  }

  void close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    finish(std::move(node));
  }

  void finish(YamlNode node) {
    if (open_.empty()) {
      if (documents_ == 1) root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kList) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.keys.empty()) {
      parent.keys.push_back(std::move(node));
    } else {
      // A missing value has the mark of whatever comes next; its key says where to look.
      if (node.kind == YamlNode::Kind::kNull) node.where = parent.keys.back().where;
      parent.node.entries.emplace_back(std::move(parent.keys.back()), std::move(node));
      parent.keys.clear();
    }
  }

  struct Open {
    YamlNode node;
    // A map's key that waits for its value: none or one.
    std::vector<YamlNode> keys;
  };

  std::string where_;
  bool is_flag_;
  Problems& problems_;
  int documents_ = 0;
  YamlNode root_;
  std::vector<Open> open_;
};

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.kind == Kind::kScalar && name.scalar == key) return &value;
  }
  return nullptr;
}

YamlNode* YamlNode::find(std::string_view key) {
  return const_cast<YamlNode*>(static_cast<const YamlNode*>(this)->find(key));
}

YamlNode& YamlNode::add(const std::string& key, const std::string& written_at) {
  YamlNode name;
  name.kind = Kind::kScalar;
  name.scalar = key;
  name.is_plain = true;
  name.where = written_at;
  YamlNode value;
  value.where = written_at;
  entries.emplace_back(std::move(name), std::move(value));
  return entries.back().second;
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull: return "nothing";
    case YamlNode::Kind::kScalar: return concat("'", excerpt(node.scalar), "'");
    case YamlNode::Kind::kList: return concat("a list of ", node.items.size());
    case YamlNode::Kind::kMap: return concat("a section of ", node.entries.size(), " keys");
  }
  return "";
}

std::vector<std::string> labels_of(const YamlNode& list) {
  std::vector<std::string> names;
  for (const YamlNode& item : list.items) {
    const YamlNode* name = item.find("name");
    if (const YamlNode* gate = item.find("gate"); name == nullptr && gate != nullptr) name = gate->find("name");
    names.push_back(name != nullptr ? name->scalar : "");
  }
  return item_labels(names);
}

YamlNode parse_yaml(const std::string& text, const std::string& where, bool is_flag, Problems& problems) {
  std::istringstream stream(text);
  TreeBuilder builder(where, is_flag, problems);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    problems.push_back({builder.at(error.mark), "", concat("not valid YAML: ", excerpt(error.msg))});
  }
  return builder.take_root();
}

}  // namespace moe
