#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moe/v1/job.pb.h"

namespace moe {

/// A setting of one conversion method or of one router init, beside those that all have: a key of
/// `convert.ffn.options` or `convert.router.options`. A number in
/// [least, most], or one of `choices`.
struct MethodOption {
  std::string name;
  std::string help;                    ///< one line, with the unit and the symbol of the source
  std::string fallback;                ///< value where none is given, as a file spells it
  std::string published{};             ///< the same with preset "published", where the paper chose otherwise
  std::vector<std::string> choices{};  ///< empty: a number
  double least = 0, most = 1;
  bool is_whole = false;

  /// "0 .. 1", "a whole number 1 .. 64", "copy, noise or drop".
  std::string range() const;
};

/// The settings of one conversion, all of them, defaults filled in.
class MethodOptions {
 public:
  MethodOptions() = default;
  /// Those of the spec's method. Throws InvalidArgument: an option that is not the method's, or a value that it cannot
  /// have.
  MethodOptions(const std::vector<MethodOption>& known, const v1::ConvertSpec& spec);
  /// Those of an owner, "ffn.method weave"; `section` is where they stand, "ffn.options". Throws likewise.
  MethodOptions(const std::vector<MethodOption>& known, const google::protobuf::Map<std::string, std::string>& given,
                bool is_published, const std::string& section, const std::string& owner);
  static const MethodOptions& none();

  double number(const std::string& name) const;
  int64_t whole(const std::string& name) const;
  const std::string& choice(const std::string& name) const;
  /// As a file spells them.
  const std::map<std::string, std::string>& values() const { return values_; }

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace moe
