#include "pipeline/yaml_to_proto.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <limits>
#include <map>

#include "common/error.h"
#include "pipeline/yaml_scalar.h"

namespace moe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

class Walker {
 public:
  Walker(SourceMap& sources, Problems& problems, const std::vector<std::string>& also_known)
      : sources_(sources), problems_(problems), also_known_(also_known) {}

  void fill(const YamlNode& node, const std::string& path, Message& message) {
    sources_.add(path, node.where);
    if (node.kind != YamlNode::Kind::kMap) {
      return report(node, path,
                    node.kind == YamlNode::Kind::kNull ? "no value; write a section of keys or remove the key"
                                                       : concat("expected a section of keys, found ", describe(node)));
    }
    // Field -> where its key was first written.
    std::map<const FieldDescriptor*, std::string> seen;
    std::map<const OneofDescriptor*, const FieldDescriptor*> chosen;
    for (const auto& [key, value] : node.entries) {
      const FieldDescriptor* field = find_field(key, path, *message.GetDescriptor());
      if (field == nullptr) continue;
      const std::string field_path = join_path(path, field->name());
      if (const auto [first, is_new] = seen.emplace(field, key.where); !is_new) {
        report(key, field_path, concat("duplicate key (", key.scalar, "); it is already set at ", first->second));
        continue;
      }
      if (const OneofDescriptor* oneof = field->real_containing_oneof()) {
        if (const auto [first, is_new] = chosen.emplace(oneof, field); !is_new) {
          report(key, field_path,
                 concat("'", field->name(), "' beside '", first->second->name(), "' (", seen[first->second],
                        "); only one of them may stand here"));
          continue;
        }
      }
      sources_.add(field_path, value.where);
      set_field(value, field_path, message, field);
    }
  }

 private:
  void report(const YamlNode& node, const std::string& path, std::string message) {
    problems_.push_back({node.where, path, std::move(message)});
  }

  const FieldDescriptor* find_field(const YamlNode& key, const std::string& path, const Descriptor& type) {
    if (key.kind != YamlNode::Kind::kScalar) {
      report(key, path, concat("a key must be a name, found ", describe(key)));
      return nullptr;
    }
    std::vector<std::string> known;
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor* field = type.field(i);
      if (field->name() == key.scalar || (field->has_json_name() && field->json_name() == key.scalar)) return field;
      known.push_back(field->has_json_name() ? field->json_name() : field->name());
    }
    if (path.empty()) known.insert(known.end(), also_known_.begin(), also_known_.end());
    report(key, join_path(path, key.scalar), concat("unknown key (", key.scalar, ")", suggestion(key.scalar, known)));
    return nullptr;
  }

  void set_field(const YamlNode& value, const std::string& path, Message& message, const FieldDescriptor* field) {
    const Reflection& reflection = *message.GetReflection();
    if (field->is_map()) return set_map(value, path, message, field);
    if (field->is_repeated()) return set_list(value, path, message, field);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      return fill(value, path, *reflection.MutableMessage(&message, field));
    }
    set_scalar(value, path, message, field, false);
  }

  void set_list(const YamlNode& value, const std::string& path, Message& message, const FieldDescriptor* field) {
    if (value.kind != YamlNode::Kind::kList) {
      const std::string hint = value.kind == YamlNode::Kind::kScalar ? concat("; write [", value.scalar, "]") : "";
      return report(value, path, concat("expected a list, found ", describe(value), hint));
    }
    const std::vector<std::string> labels = labels_of(value);
    for (size_t i = 0; i < value.items.size(); ++i) {
      const std::string item_path = join_path(path, labels[i]);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        fill(value.items[i], item_path, *message.GetReflection()->AddMessage(&message, field));
      } else {
        sources_.add(item_path, value.items[i].where);
        set_scalar(value.items[i], item_path, message, field, true);
      }
    }
  }

  // A map field is a list of {key, value} messages to reflection.
  void set_map(const YamlNode& value, const std::string& path, Message& message, const FieldDescriptor* field) {
    if (value.kind != YamlNode::Kind::kMap) {
      return report(value, path, concat("expected a section of names, found ", describe(value)));
    }
    const FieldDescriptor* key_field = field->message_type()->map_key();
    const FieldDescriptor* value_field = field->message_type()->map_value();
    std::map<std::string, std::string> seen;
    for (const auto& [key, entry] : value.entries) {
      const std::string entry_path = join_path(path, key.scalar);
      if (const auto [first, is_new] = seen.emplace(key.scalar, key.where); !is_new) {
        report(key, entry_path, concat("duplicate key (", key.scalar, "); it is already set at ", first->second));
        continue;
      }
      Message& pair = *message.GetReflection()->AddMessage(&message, field);
      sources_.add(entry_path, entry.where);
      set_scalar(key, entry_path, pair, key_field, false);
      set_field(entry, entry_path, pair, value_field);
    }
  }

  template <typename Value>
  bool take(const Scalar<Value>& parsed, const YamlNode& node, const std::string& path) {
    if (!parsed.value) report(node, path, parsed.problem);
    return parsed.value.has_value();
  }

  void set_scalar(const YamlNode& node, const std::string& path, Message& message, const FieldDescriptor* field,
                  bool add) {
    const Reflection& reflection = *message.GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32: {
        const auto parsed =
            parse_signed(node, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max());
        if (!take(parsed, node, path)) return;
        const auto value = static_cast<int32_t>(*parsed.value);
        return add ? reflection.AddInt32(&message, field, value) : reflection.SetInt32(&message, field, value);
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        const auto parsed =
            parse_signed(node, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
        if (!take(parsed, node, path)) return;
        return add ? reflection.AddInt64(&message, field, *parsed.value)
                   : reflection.SetInt64(&message, field, *parsed.value);
      }
      case FieldDescriptor::CPPTYPE_UINT32: {
        const auto parsed = parse_unsigned(node, std::numeric_limits<uint32_t>::max());
        if (!take(parsed, node, path)) return;
        const auto value = static_cast<uint32_t>(*parsed.value);
        return add ? reflection.AddUInt32(&message, field, value) : reflection.SetUInt32(&message, field, value);
      }
      case FieldDescriptor::CPPTYPE_UINT64: {
        const auto parsed = parse_unsigned(node, std::numeric_limits<uint64_t>::max());
        if (!take(parsed, node, path)) return;
        return add ? reflection.AddUInt64(&message, field, *parsed.value)
                   : reflection.SetUInt64(&message, field, *parsed.value);
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        const auto parsed = parse_double(node);
        if (!take(parsed, node, path)) return;
        return add ? reflection.AddDouble(&message, field, *parsed.value)
                   : reflection.SetDouble(&message, field, *parsed.value);
      }
      case FieldDescriptor::CPPTYPE_FLOAT: {
        const auto parsed = parse_double(node);
        if (!take(parsed, node, path)) return;
        const auto value = static_cast<float>(*parsed.value);
        return add ? reflection.AddFloat(&message, field, value) : reflection.SetFloat(&message, field, value);
      }
      case FieldDescriptor::CPPTYPE_BOOL: {
        const auto parsed = parse_bool(node);
        if (!take(parsed, node, path)) return;
        return add ? reflection.AddBool(&message, field, *parsed.value)
                   : reflection.SetBool(&message, field, *parsed.value);
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        const auto parsed = parse_string(node);
        if (!take(parsed, node, path)) return;
        return add ? reflection.AddString(&message, field, *parsed.value)
                   : reflection.SetString(&message, field, *parsed.value);
      }
      case FieldDescriptor::CPPTYPE_ENUM: return set_enum(node, path, message, field, add);
      case FieldDescriptor::CPPTYPE_MESSAGE: break;
    }
    throw Internal(concat("field ", field->full_name(), " is not a scalar"));
  }

  void set_enum(const YamlNode& node, const std::string& path, Message& message, const FieldDescriptor* field,
                bool add) {
    const auto parsed = parse_string(node);
    if (!take(parsed, node, path)) return;
    const EnumValueDescriptor* value = field->enum_type()->FindValueByName(*parsed.value);
    if (value == nullptr) {
      std::vector<std::string> known;
      for (int i = 0; i < field->enum_type()->value_count(); ++i) known.push_back(field->enum_type()->value(i)->name());
      return report(node, path, concat("unknown value (", *parsed.value, ")", suggestion(*parsed.value, known)));
    }
    const Reflection& reflection = *message.GetReflection();
    return add ? reflection.AddEnum(&message, field, value) : reflection.SetEnum(&message, field, value);
  }

  SourceMap& sources_;
  Problems& problems_;
  const std::vector<std::string>& also_known_;
};

}  // namespace

void yaml_to_proto(const YamlNode& node, Message& message, SourceMap& sources, Problems& problems,
                   const std::vector<std::string>& also_known) {
  Walker(sources, problems, also_known).fill(node, "", message);
}

}  // namespace moe
