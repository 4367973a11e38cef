#include "convert/method_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "common/error.h"

namespace moe {
namespace {

/// The whole text as a finite number.
std::optional<double> number_of(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

bool fits(const MethodOption& option, const std::string& value) {
  if (!option.choices.empty()) {
    return std::find(option.choices.begin(), option.choices.end(), value) != option.choices.end();
  }
  const std::optional<double> number = number_of(value);
  return number && *number >= option.least && *number <= option.most &&
         (!option.is_whole || *number == std::floor(*number));
}

std::string names_of(const std::vector<MethodOption>& known) {
  std::string text;
  for (const MethodOption& option : known) text += (text.empty() ? "" : ", ") + option.name;
  return text;
}

}  // namespace

std::string MethodOption::range() const {
  if (choices.empty()) return concat(is_whole ? "a whole number " : "", least, " .. ", most);
  std::string text;
  for (size_t i = 0; i < choices.size(); ++i)
    text += (i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ") + choices[i];
  return text;
}

MethodOptions::MethodOptions(const std::vector<MethodOption>& known, const v1::ConvertSpec& spec)
    : MethodOptions(known, spec.ffn().options(), spec.preset() == "published", "ffn.options",
                    "ffn.method " + spec.ffn().method()) {}

MethodOptions::MethodOptions(const std::vector<MethodOption>& known,
                             const google::protobuf::Map<std::string, std::string>& given, bool is_published,
                             const std::string& section, const std::string& owner) {
  for (const MethodOption& option : known)
    values_[option.name] = is_published && !option.published.empty() ? option.published : option.fallback;
  for (const auto& [name, value] : given) {
    const auto option = std::find_if(known.begin(), known.end(),
                                     [&name = name](const MethodOption& each) { return each.name == name; });
    if (option == known.end()) {
      throw InvalidArgument(concat("convert: ", section, ".", name, " (", value, ") is no option of ", owner, "; ",
                                   known.empty() ? "it has none" : "it has: " + names_of(known)));
    }
    if (!fits(*option, value)) {
      throw InvalidArgument(
          concat("convert: ", section, ".", name, " is '", value, "'; use ", option->range(), " (", option->help, ")"));
    }
    values_[name] = value;
  }
}

const MethodOptions& MethodOptions::none() {
  static const MethodOptions empty;
  return empty;
}

double MethodOptions::number(const std::string& name) const {
  const std::optional<double> value = number_of(choice(name));
  MOE_CHECK(value.has_value(), concat("option ", name, " is no number"));
  return *value;
}

int64_t MethodOptions::whole(const std::string& name) const {
  return static_cast<int64_t>(number(name));
}

const std::string& MethodOptions::choice(const std::string& name) const {
  const auto found = values_.find(name);
  MOE_CHECK(found != values_.end(), concat("the method asks for an option that it does not declare: ", name));
  return found->second;
}

}  // namespace moe
