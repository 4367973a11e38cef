#include "pipeline/field_checks.h"

#include <algorithm>
#include <map>

#include "pipeline/defaults.h"

namespace moe {

void FieldChecks::choice(const std::string& field, bool is_set, const std::string& value,
                         const std::vector<std::string>& allowed) const {
  if (!is_set || std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  const std::string nearest = nearest_name(value, allowed);
  add(field, concat("unknown value (", value, "); ", nearest.empty() ? "" : concat("did you mean '", nearest, "'? "),
                    "known: ", comma_separated(allowed)));
}

void FieldChecks::known(const std::string& field, const std::string& name, const std::string& list) const {
  const std::vector<std::string> names = known_names(list);
  choice(field, !name.empty() && !names.empty(), name, names);
}

std::vector<std::string> FieldChecks::known_names(const std::string& list) const {
  const auto found = known_.find(list);
  if (found == known_.end()) return {};
  return {found->second.begin(), found->second.end()};
}

void FieldChecks::positive(const std::string& field, bool is_set, double value) const {
  if (is_set && !(value > 0)) add(field, concat("must be greater than 0 (", value, ")"));
}

void FieldChecks::share(const std::string& field, bool is_set, double value) const {
  if (is_set && !(value >= 0 && value <= 1)) add(field, concat("must lie in 0 .. 1 (", value, ")"));
}

void FieldChecks::decay(const std::string& field, bool is_set, double value) const {
  if (is_set && !(value >= 0 && value < 1)) add(field, concat("must be at least 0 and less than 1 (", value, ")"));
}

void FieldChecks::sources(const std::string& field, const google::protobuf::RepeatedPtrField<v1::DataSource>& list,
                          bool unique_domains) const {
  std::map<std::string, int> first_of;
  for (int i = 0; i < list.size(); ++i) {
    const v1::DataSource& source = list[i];
    const std::string item = join_path(field, std::to_string(i));
    if (source.path().empty()) add(join_path(item, "path"), "missing; name a JSONL file");
    positive(join_path(item, "weight"), source.has_weight(), source.weight());
    at_least<int64_t>(join_path(item, "max_documents"), source.has_max_documents(), source.max_documents(), 0);
    choice(join_path(item, "special_tokens"), source.has_special_tokens(), source.special_tokens(), {"text", "parse"});
    if (source.has_domain() && source.domain().empty())
      add(join_path(item, "domain"), "is empty; write a name or remove it");
    const std::string domain = domain_of(source);
    if (domain.empty()) continue;
    const auto [first, is_new] = first_of.emplace(domain, i);
    if (!is_new && unique_domains) {
      add(item, concat("its domain '", domain, "' is also that of ", path(field), ".", first->second,
                       "; losses are reported by domain, so set `domain` on one of them"));
    }
  }
}

}  // namespace moe
