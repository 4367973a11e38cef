#include "pipeline/kinds/convert_merge.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

/// A method that is known not to be in this list of KnownNames.
bool is_known_to_lack(const std::string& method, const std::string& list, const FieldChecks& checks) {
  const std::vector<std::string> methods = checks.known_names("methods"), having = checks.known_names(list);
  const auto has = [&method](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), method) != names.end();
  };
  return has(methods) && !having.empty() && !has(having);
}

void check_texts(const v1::ExpertPrompts& prompts, const std::string& field, const FieldChecks& checks) {
  if (prompts.positive().empty())
    checks.add(field + ".positive", "missing; list texts that the expert should be chosen for");
  for (const auto& [side, texts] : {std::pair("positive", &prompts.positive()), {"negative", &prompts.negative()}}) {
    for (int i = 0; i < texts->size(); ++i) {
      if (texts->Get(i).find_first_not_of(" \t\r\n") == std::string::npos)
        checks.add(concat(field, ".", side, ".", i), "an empty text; give one or remove it");
    }
  }
}

/// Both have the output of the input's FFN for their target.
void check_targets(const v1::ConvertSpec& effective, const FieldChecks& checks) {
  const std::string reason = concat("what the input's own FFNs give, and experts of ffn.method '",
                                    effective.ffn().method(), "' are FFNs of other models; remove it");
  if (const std::string& alignment = effective.scale().alignment(); alignment != "none")
    checks.add("scale.alignment", concat("'", alignment, "' scales every expert towards ", reason));
  if (effective.has_reconstruction()) checks.add("reconstruction", "trains every expert to give " + reason);
}

}  // namespace

int expert_count(const v1::FfnExpertsSpec& ffn) {
  return ffn.experts() == 0 && !ffn.others().empty() ? 1 + ffn.others_size() : ffn.experts();
}

void check_merged_models(const v1::ConvertSpec& effective, const FieldChecks& checks) {
  const v1::FfnExpertsSpec& ffn = effective.ffn();
  if (!ffn.others().empty()) {
    if (is_known_to_lack(ffn.method(), "methods_with_others", checks)) {
      checks.add("ffn.others", concat("has no effect with ffn.method '", ffn.method(),
                                      "', which takes from the input alone; remove it, or set ffn.method: merge"));
    } else if (ffn.experts() != 1 + ffn.others_size()) {
      checks.add("ffn.experts",
                 concat("is ", ffn.experts(), ", and the input and ffn.others are ", 1 + ffn.others_size(),
                        " models, each of which is one expert; write ", 1 + ffn.others_size(), " or leave it out"));
    } else {
      check_targets(effective, checks);
    }
  }
  if (ffn.prompts().empty()) return;
  if (is_known_to_lack(ffn.method(), "methods_with_prompts", checks)) {
    checks.add("ffn.prompts", concat("has no effect with ffn.method '", ffn.method(), "'; remove it"));
    return;
  }
  if (ffn.prompts_size() != ffn.experts()) {
    checks.add("ffn.prompts", concat("has ", ffn.prompts_size(), " entries for ", ffn.experts(),
                                     " experts; give one an expert, in their order"));
  }
  for (int expert = 0; expert < ffn.prompts_size(); ++expert)
    check_texts(ffn.prompts(expert), concat("ffn.prompts.", expert), checks);
}

}  // namespace moe
