#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"

namespace moe {

/// An ordered, immutable list of names and what each makes: methods, families, dispatchers, job kinds, tasks. The list
/// stands in one visible table (for example src/convert/conversion_methods.cc); nothing registers itself.
template <typename Value>
class Registry {
 public:
  /// `what` names an entry in errors, for example "conversion method".
  Registry(std::string what, std::initializer_list<std::pair<std::string, Value>> entries)
      : what_(std::move(what)), entries_(entries) {}

  bool contains(std::string_view name) const { return find(name) != nullptr; }

  /// Throws InvalidArgument that lists the known names.
  const Value& at(std::string_view name) const {
    if (const Value* value = find(name)) return *value;
    throw InvalidArgument(concat("unknown ", what_, " '", name, "'; known: ", known()));
  }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, value] : entries_) all.push_back(name);
    return all;
  }

  /// "a, b, c".
  std::string known() const {
    std::string text;
    for (const auto& [name, value] : entries_) text += (text.empty() ? "" : ", ") + name;
    return text;
  }

 private:
  const Value* find(std::string_view name) const {
    for (const auto& [known_name, value] : entries_) {
      if (known_name == name) return &value;
    }
    return nullptr;
  }

  std::string what_;
  std::vector<std::pair<std::string, Value>> entries_;
};

}  // namespace moe
