#include "pipeline/problem.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <set>

#include "common/error.h"

namespace moe {
namespace {

// Line number at the end of "file:12"; flags, which have none, come last.
int line_of(const std::string& where) {
  const size_t colon = where.rfind(':');
  int line = 0;
  if (colon == std::string::npos) return INT32_MAX;
  const char* end = where.data() + where.size();
  const auto [stop, error] = std::from_chars(where.data() + colon + 1, end, line);
  return error == std::errc() && stop == end ? line : INT32_MAX;
}

// Levenshtein distance over bytes.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string Problem::text() const {
  const std::string field = path.empty() ? "" : excerpt(path) + ": ";
  return concat(where, ": ", field, printable(message, kMaxProblemText));
}

std::string to_text(const Problems& problems) {
  Problems sorted = problems;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Problem& a, const Problem& b) { return line_of(a.where) < line_of(b.where); });
  std::string text;
  if (sorted.size() > 1) text = concat(sorted.size(), " problems:\n");
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i > 0) text += '\n';
    text += sorted[i].text();
  }
  return text;
}

std::string SourceMap::where(std::string path) const {
  while (true) {
    if (const auto found = where_.find(path); found != where_.end()) return found->second;
    const size_t dot = path.rfind('.');
    if (path.empty()) return file_;
    path = dot == std::string::npos ? "" : path.substr(0, dot);
  }
}

std::string comma_separated(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) {
    if (!text.empty()) text += ", ";
    text += item;
  }
  return text;
}

std::string alternatives(const std::vector<std::string>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " or " : ", ";
    text += items[i];
  }
  return text;
}

std::string join_path(std::string_view section, std::string_view field) {
  return section.empty() ? std::string(field) : concat(section, ".", field);
}

std::vector<std::string> item_labels(const std::vector<std::string>& names) {
  std::vector<std::string> labels;
  std::set<std::string> taken;
  for (size_t i = 0; i < names.size(); ++i) {
    const bool usable = !names[i].empty() && names[i].find('.') == std::string::npos && taken.insert(names[i]).second;
    labels.push_back(usable ? names[i] : std::to_string(i));
  }
  return labels;
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  std::string nearest;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    // A change of every letter is no likeness.
    if (distance < least && distance < candidate.size()) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& known) {
  if (const std::string nearest = nearest_name(name, known); !nearest.empty()) {
    return concat("; did you mean '", nearest, "'?");
  }
  return known.empty() ? "" : concat("; known: ", comma_separated(known));
}

}  // namespace moe
