#include "pipeline/for_each.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "pipeline/kinds/kinds.h"

namespace moe {
namespace {

using Kind = YamlNode::Kind;

void set_scalar(YamlNode& map, const std::string& key, const std::string& value, const std::string& where) {
  YamlNode* const present = map.find(key);
  YamlNode& node = present != nullptr ? *present : map.add(key, where);
  node.kind = Kind::kScalar;
  node.scalar = value;
  node.is_plain = true;
  node.where = where;
}

/// Keys of `over` win; sections are merged, lists are replaced.
void lay_over(YamlNode& node, const YamlNode& over) {
  if (node.kind != Kind::kMap || over.kind != Kind::kMap) {
    node = over;
    return;
  }
  for (const auto& [key, value] : over.entries) {
    YamlNode* const present = node.find(key.scalar);
    lay_over(present != nullptr ? *present : node.add(key.scalar, key.where), value);
  }
}

/// The name of a stage, which stands inside a gate.
YamlNode* name_of(YamlNode& stage) {
  if (YamlNode* name = stage.find("name")) return name;
  YamlNode* const gate = stage.find("gate");
  return gate != nullptr && gate->kind == Kind::kMap ? gate->find("name") : nullptr;
}

/// One item: the variants, seeds and stages of a group.
class Group {
 public:
  Group(YamlNode& group, std::string path, Problems& problems) : path_(std::move(path)), problems_(problems) {
    for (auto& [key, value] : group.entries) {
      if (key.scalar == "variants") {
        variants_ = &value;
      } else if (key.scalar == "seeds") {
        seeds_ = &value;
      } else if (key.scalar == "stages") {
        stages_ = &value;
      } else {
        problem(key, key.scalar,
                concat("unknown key (", key.scalar, ")", suggestion(key.scalar, {"variants", "seeds", "stages"})));
      }
    }
    require_list(group, variants_, "variants", "what differs, [{name: NAME, STAGE: {...}}]");
    require_list(group, stages_, "stages", "what is run for each variant");
    if (seeds_ != nullptr) require_list(group, seeds_, "seeds", "numbers, [1, 2, 3]");
    if (is_sound_) read_names();
  }

  /// Adds the stages that were written out.
  void write_out(std::vector<YamlNode>& stages) {
    if (!is_sound_) return;
    for (const YamlNode& variant : variants_->items) {
      const std::string& name = variant.find("name")->scalar;
      if (seeds_ == nullptr) {
        write_variant(variant, name + "-", nullptr, stages);
        continue;
      }
      for (const YamlNode& seed : seeds_->items)
        write_variant(variant, concat(name, "-s", seed.scalar, "-"), &seed, stages);
    }
  }

 private:
  void problem(const YamlNode& node, const std::string& field, std::string message) {
    problems_.push_back({node.where, join_path(path_, field), std::move(message)});
    is_sound_ = false;
  }

  void require_list(const YamlNode& group, const YamlNode* list, const std::string& field, const std::string& what) {
    if (list == nullptr) return problem(group, field, concat("missing; list ", what));
    if (list->kind != Kind::kList || list->items.empty())
      problem(*list, field, concat("expected a list, found ", describe(*list), "; list ", what));
  }

  void read_names() {
    for (YamlNode& stage : stages_->items) {
      if (stage.find("for_each") != nullptr)
        problem(stage, "stages", "a for_each inside a for_each; write one list of variants");
      const YamlNode* name = stage.kind == Kind::kMap ? name_of(stage) : nullptr;
      if (name == nullptr || name->kind != Kind::kScalar) {
        problem(stage, "stages", "a stage without a name; it is needed to tell the variants' stages apart");
      } else if (name->scalar == "name") {
        problem(*name, "stages", "a stage called 'name', which is a variant's own key; call it otherwise");
      } else {
        local_.insert(name->scalar);
      }
      const YamlNode* seed = stage.find("seed");
      if (seed != nullptr && seeds_ != nullptr)
        problem(*seed, "stages", concat("a seed (", seed->scalar, ") beside the group's seeds; remove one of them"));
    }
    for (const YamlNode& variant : variants_->items) {
      const YamlNode* name = variant.kind == Kind::kMap ? variant.find("name") : nullptr;
      if (name == nullptr || name->kind != Kind::kScalar) {
        problem(variant, "variants", "a variant without a name; write {name: NAME, STAGE: {...}}");
        continue;
      }
      if (!names_.insert(name->scalar).second)
        problem(*name, "variants", concat("a second variant of this name (", name->scalar, ")"));
      for (const auto& [key, value] : variant.entries) {
        if (key.scalar == "name") continue;
        const std::string field = join_path("variants." + name->scalar, key.scalar);
        if (!local_.contains(key.scalar)) {
          problem(key, field,
                  concat("no stage of the group (", key.scalar, ")",
                         suggestion(key.scalar, {local_.begin(), local_.end()})));
        } else if (value.kind != Kind::kMap) {
          problem(value, field, concat("expected a section of the job's keys, found ", describe(value)));
        }
      }
    }
    for (const YamlNode& seed : seeds_ != nullptr ? seeds_->items : std::vector<YamlNode>{}) {
      if (seed.kind != Kind::kScalar) problem(seed, "seeds", concat("expected a number, found ", describe(seed)));
    }
  }

  void write_variant(const YamlNode& variant, const std::string& prefix, const YamlNode* seed,
                     std::vector<YamlNode>& stages) {
    for (const YamlNode& written : stages_->items) {
      YamlNode stage = written;
      const std::string local = name_of(stage)->scalar;
      if (const YamlNode* own = variant.find(local)) {
        for (auto& [key, value] : stage.entries) {
          if (kind_named(key.scalar) != nullptr || key.scalar == "gate") lay_over(value, *own);
        }
      }
      rename(stage, prefix, "");
      name_of(stage)->scalar = prefix + local;
      if (seed != nullptr && stage.find("gate") == nullptr) set_scalar(stage, "seed", seed->scalar, seed->where);
      stages.push_back(std::move(stage));
    }
  }

  /// Models and metrics of the group's own stages, wherever a value names one. Files keep their names.
  void rename(YamlNode& node, const std::string& prefix, const std::string& key) const {
    for (YamlNode& item : node.items) rename(item, prefix, key);
    for (auto& [name, value] : node.entries) rename(value, prefix, name.scalar);
    if (node.kind != Kind::kScalar || key == "path") return;
    const size_t dot = node.scalar.find('.');
    if (dot == std::string::npos || !local_.contains(node.scalar.substr(0, dot))) return;
    if (key == "metric" || node.scalar.substr(dot) == ".model") node.scalar = prefix + node.scalar;
  }

  const std::string path_;
  Problems& problems_;
  YamlNode* variants_ = nullptr;
  YamlNode* seeds_ = nullptr;
  YamlNode* stages_ = nullptr;
  std::set<std::string> local_, names_;
  bool is_sound_ = true;
};

}  // namespace

void expand_for_each(YamlNode& document, Problems& problems) {
  YamlNode* const stages = document.kind == Kind::kMap ? document.find("stages") : nullptr;
  if (stages == nullptr || stages->kind != Kind::kList) return;
  std::vector<YamlNode> written_out;
  for (size_t i = 0; i < stages->items.size(); ++i) {
    YamlNode& item = stages->items[i];
    YamlNode* const group = item.kind == Kind::kMap ? item.find("for_each") : nullptr;
    if (group == nullptr) {
      written_out.push_back(std::move(item));
      continue;
    }
    const std::string path = concat("stages.", i, ".for_each");
    if (item.entries.size() > 1) {
      problems.push_back({item.where, path, "keys beside it; a for_each stands alone in its item of the list"});
    } else if (group->kind != Kind::kMap) {
      problems.push_back(
          {group->where, path, concat("expected a section with variants and stages, found ", describe(*group))});
    } else {
      Group(*group, path, problems).write_out(written_out);
    }
  }
  stages->items = std::move(written_out);
}

}  // namespace moe
