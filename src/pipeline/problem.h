#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

/// What is wrong with a configuration file, collected so that all of it is shown at once, and where each value came
/// from.
namespace moe {

/// One thing that a user must change.
struct Problem {
  /// "configs/a.yaml:12", or the flag that brought the value: "--set stages.stage1.train.steps=x".
  std::string where;
  /// Field, for example "stages.stage1.train.steps"; empty for the document as a whole.
  std::string path;
  /// "what (value); hint".
  std::string message;

  /// "where: path: message", cut where a field or a value is long.
  std::string text() const;
};

/// Of a problem's message, in bytes: some list all names that are known.
inline constexpr size_t kMaxProblemText = 1000;

using Problems = std::vector<Problem>;

/// Every problem on a line of its own, in the order of the lines of the file, headed by their number when there are
/// several.
std::string to_text(const Problems& problems);

/// Path of a field -> where its value was written. Asked for a field that nobody wrote, it answers with the closest
/// section around it.
class SourceMap {
 public:
  explicit SourceMap(std::string file) : file_(std::move(file)) {}

  void add(const std::string& path, std::string where) { where_.emplace(path, std::move(where)); }
  std::string where(std::string path) const;

 private:
  std::string file_;
  std::map<std::string, std::string> where_;
};

/// "a, b, c".
std::string comma_separated(const std::vector<std::string>& items);

/// "a, b or c".
std::string alternatives(const std::vector<std::string>& items);

/// "a.b", or "b" when `section` is empty.
std::string join_path(std::string_view section, std::string_view field);

/// Labels of the items of a list in paths: an item's name where it has one that no earlier item has, else its index
/// counted from 0.
std::vector<std::string> item_labels(const std::vector<std::string>& names);

/// The known name nearest to a mistyped one by edit distance, or "" if none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

/// "; did you mean 'x'?" or "; known: a, b, c".
std::string suggestion(std::string_view name, const std::vector<std::string>& known);

}  // namespace moe
