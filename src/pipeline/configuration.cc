#include "pipeline/configuration.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/moved_fields.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

/// A value as a file would spell it, with its class.
struct Leaf {
  std::string text;
  FieldEffect effect = FieldEffect::kResult;
  bool is_contents = false;  ///< what it names counts, not the text
  bool is_file = false;      ///< it names a data file; else a model
};
using Leaves = std::map<std::string, Leaf>;

/// The shortest that comes back.
std::string number_text(double value) {
  return nlohmann::json(value).dump();
}

std::string scalar_text(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: return reflection.GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_INT32: return std::to_string(reflection.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64: return std::to_string(reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64: return std::to_string(reflection.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE: return number_text(reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_STRING: return reflection.GetString(message, &field);
    default: throw Internal("a field of a type that no stage has: " + field.full_name());
  }
}

std::string list_text(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  const bool are_numbers = field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
  MOE_CHECK(are_numbers || field.cpp_type() == FieldDescriptor::CPPTYPE_STRING, field.full_name());
  std::string text = "[";
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    text += i == 0 ? "" : ", ";
    text += are_numbers ? number_text(reflection.GetRepeatedDouble(message, &field, i))
                        : reflection.GetRepeatedString(message, &field, i);
  }
  return text + "]";
}

std::string entries_text(int count) {
  return concat(count, count == 1 ? " entry" : " entries");
}

/// The class of what is inside a field: a measure is one as a whole.
bool covers_inside(FieldEffect effect) {
  return effect == FieldEffect::kMeasure || effect == FieldEffect::kBookkeeping;
}

/// `path` has the indices of lists, `plain` has not: "train.data.0" and "train.data".
void collect(const Message& message, const std::string& path, const std::string& plain, FieldEffect around,
             Leaves& leaves) {
  const Reflection& reflection = *message.GetReflection();
  const auto joined = [](const std::string& prefix, const std::string& name) {
    return prefix.empty() ? name : prefix + "." + name;
  };
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (field.has_presence() && !reflection.HasField(message, &field)) continue;
    const std::string here = joined(path, field.name()), plain_here = joined(plain, field.name());
    const FieldEffect own = effect_of(plain_here, field);
    const FieldEffect effect = covers_inside(around) ? around : own;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field.is_repeated()) {
        collect(reflection.GetMessage(message, &field), here, plain_here, effect, leaves);
        continue;
      }
      const int count = reflection.FieldSize(message, &field);
      leaves[here] = {entries_text(count), effect, false, false};
      for (int item = 0; item < count; ++item) {
        collect(reflection.GetRepeatedMessage(message, &field, item), concat(here, ".", item), plain_here, effect,
                leaves);
      }
      continue;
    }
    const bool is_contents = own == FieldEffect::kContents;
    const FieldEffect counted = effect == FieldEffect::kContents ? FieldEffect::kResult : effect;
    if (field.is_repeated() && is_contents) {
      const int count = reflection.FieldSize(message, &field);
      leaves[here] = {entries_text(count), counted, false, false};
      for (int item = 0; item < count; ++item) {
        leaves[concat(here, ".", item)] = {reflection.GetRepeatedString(message, &field, item), counted, is_contents,
                                           false};
      }
      continue;
    }
    leaves[here] = {field.is_repeated() ? list_text(message, field) : scalar_text(message, field), counted, is_contents,
                    field.containing_type() == v1::DataSource::descriptor()};
  }
}

/// An older program, which filled in fewer fields, may have written either side: a record, or the job in a store.
v1::Stage with_all_defaults(const v1::Stage& stage) {
  v1::PipelineSpec spec;
  *spec.add_stages() = stage;
  return effective_spec(spec).stages(0);
}

Leaves leaves_of(const v1::Stage& stage) {
  Leaves leaves;
  collect(with_all_defaults(stage), "", "", FieldEffect::kResult, leaves);
  return leaves;
}

/// Digest of what a field names; empty: not known.
std::string known_digest(const Configuration& configuration, const std::string& path) {
  const auto found = configuration.inputs.find(path);
  return found == configuration.inputs.end() ? "" : found->second;
}

/// "train.data.1.path" where only the list of `train.data` became longer or shorter: the list's own change says so.
bool is_of_another_length(const std::string& path, const Leaves& before, const Leaves& now) {
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    const auto b = before.find(path.substr(0, dot)), n = now.find(path.substr(0, dot));
    if (b != before.end() && n != now.end() && b->second.text != n->second.text) return true;
  }
  return false;
}

/// "convert.calibration.data.0.path" for "convert.calibration.0.path", where the list moved.
std::string moved_path(const std::string& path, const std::map<std::string, std::string>& moved) {
  for (const auto& [from, to] : moved) {
    if (path == from || path.starts_with(from + ".")) return to + path.substr(from.size());
  }
  return path;
}

std::string shown(const std::string& value) {
  return value.empty() ? "''" : value;
}

}  // namespace

nlohmann::json to_json(const Configuration& configuration) {
  return {{"config", nlohmann::json::parse(to_json(configuration.stage))}, {"inputs", configuration.inputs}};
}

std::optional<Configuration> configuration_from(const nlohmann::json& record) {
  if (!record.is_object() || !record.contains("config") || !record["config"].is_object()) return std::nullopt;
  nlohmann::json config = record["config"];
  const std::map<std::string, std::string> moved = move_keys(config);
  v1::Stage stage;
  if (!google::protobuf::util::JsonStringToMessage(config.dump(), &stage).ok()) return std::nullopt;
  Configuration configuration{with_all_defaults(stage), {}};
  const nlohmann::json inputs = record.value("inputs", nlohmann::json::object());
  if (!inputs.is_object()) return std::nullopt;
  for (const auto& [path, digest] : inputs.items()) {
    if (digest.is_string()) configuration.inputs[moved_path(path, moved)] = digest.get<std::string>();
  }
  return configuration;
}

void visit_contents(const v1::Stage& stage,
                    const std::function<void(const std::string& path, const std::string& value, bool is_file)>& visit) {
  for (const auto& [path, leaf] : leaves_of(stage)) {
    if (leaf.is_contents) visit(path, leaf.text, leaf.is_file);
  }
}

std::string digest_of(const Configuration& configuration, const std::string& history) {
  std::string text = stage_kind(configuration.stage);
  for (const auto& [path, leaf] : leaves_of(configuration.stage)) {
    if (leaf.effect != FieldEffect::kResult && leaf.effect != FieldEffect::kMore) continue;
    text += concat("\n", path, "=", leaf.is_contents ? known_digest(configuration, path) : leaf.text);
  }
  if (!history.empty()) text += "\nhistory=" + history;
  return xxh3_hex(text);
}

std::vector<FieldChange> changes(const Configuration& before, const Configuration& now) {
  const std::string kind_before = stage_kind(before.stage), kind = stage_kind(now.stage);
  if (kind_before != kind) {
    return {{"kind", concat("the stage was of kind ", kind_before, " and is of kind ", kind), FieldEffect::kResult}};
  }
  std::vector<FieldChange> found;
  const Leaves old_leaves = leaves_of(before.stage), new_leaves = leaves_of(now.stage);
  Leaves all = new_leaves;
  all.insert(old_leaves.begin(), old_leaves.end());
  for (const auto& [path, leaf] : all) {
    const auto b = old_leaves.find(path), n = new_leaves.find(path);
    if (b == old_leaves.end() || n == new_leaves.end()) {
      if (is_of_another_length(path, old_leaves, new_leaves)) continue;
      const std::string text = b == old_leaves.end() ? concat(path, " was not given and is ", shown(leaf.text))
                                                     : concat(path, " was ", shown(leaf.text), " and is not given");
      found.push_back({path, text, leaf.effect});
      continue;
    }
    const std::string& was = b->second.text;
    const std::string& is = n->second.text;
    if (leaf.is_contents) {
      const std::string old_digest = known_digest(before, path), digest = known_digest(now, path);
      if (old_digest == digest || old_digest.empty() || digest.empty()) continue;
      const std::string what = leaf.is_file ? "file " : "model ";
      found.push_back({path,
                       was == is ? concat(path, ": ", what, is, " does not hold what it held")
                                 : concat(path, " was ", was, " and is ", is, ", a ", what, "with other contents"),
                       leaf.effect});
    } else if (was != is) {
      found.push_back({path, concat(path, " was ", shown(was), " and is ", shown(is)), leaf.effect});
    }
  }
  if (const JobKind* row = kind_of(now.stage); row != nullptr && row->judge)
    row->judge(with_all_defaults(before.stage), with_all_defaults(now.stage), found);
  return found;
}

bool is_same_result(const std::vector<FieldChange>& changes) {
  return std::all_of(changes.begin(), changes.end(), [](const FieldChange& change) {
    return change.effect == FieldEffect::kLayout || change.effect == FieldEffect::kBookkeeping;
  });
}

bool may_go_on(const std::vector<FieldChange>& changes) {
  return std::none_of(changes.begin(), changes.end(),
                      [](const FieldChange& change) { return change.effect == FieldEffect::kResult; });
}

std::string to_text(const std::vector<FieldChange>& changes, const std::string& separator) {
  std::string text;
  for (const FieldChange& change : changes) text += (text.empty() ? "" : separator) + change.text;
  return text;
}

}  // namespace moe
