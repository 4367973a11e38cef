#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

/// Walks messages by reflection, for tests that hold for every field of a schema, those of later versions too.
namespace moe::testing {

struct ProtoField {
  std::string path;   ///< "train.data.0.weight"
  std::string plain;  ///< "train.data.weight"
  const google::protobuf::FieldDescriptor* descriptor = nullptr;
};

/// Visits every field of the message, and of those that it holds, that has or may have a value, with its message.
inline void for_each_field(google::protobuf::Message& message,
                           const std::function<void(google::protobuf::Message&, const ProtoField&)>& visit,
                           const ProtoField& at = {}) {
  using google::protobuf::FieldDescriptor;
  const auto& reflection = *message.GetReflection();
  const auto joined = [](const std::string& a, const std::string& b) { return a.empty() ? b : a + "." + b; };
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    const ProtoField here{joined(at.path, field->name()), joined(at.plain, field->name()), field};
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field->real_containing_oneof()) visit(message, here);
    } else if (field->is_repeated()) {
      for (int k = 0; k < reflection.FieldSize(message, field); ++k) {
        for_each_field(*reflection.MutableRepeatedMessage(&message, field, k), visit,
                       {here.path + "." + std::to_string(k), here.plain, field});
      }
    } else if (reflection.HasField(message, field)) {
      for_each_field(*reflection.MutableMessage(&message, field), visit, here);
    }
  }
}

/// Gives a field another value; a list one entry more.
inline void set_another(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field) {
  using google::protobuf::FieldDescriptor;
  const auto& reflection = *message.GetReflection();
  if (field.is_repeated() && field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE)
    return reflection.AddDouble(&message, &field, 0.125);
  if (field.is_repeated()) return reflection.AddString(&message, &field, "another");
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, !reflection.GetBool(message, &field));
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(&message, &field, reflection.GetInt32(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, reflection.GetInt64(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(&message, &field, reflection.GetUInt64(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, reflection.GetDouble(message, &field) * 1.25 + 0.125);
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, reflection.GetString(message, &field) + "-other");
    default: FAIL() << field.full_name();
  }
}

}  // namespace moe::testing
