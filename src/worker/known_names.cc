#include "worker/known_names.h"

#include <set>
#include <string>
#include <vector>

#include "convert/conversion_methods.h"
#include "convert/router_init.h"
#include "data/chat/chat_templates.h"
#include "eval/eval_tasks.h"
#include "export/export_formats.h"

namespace moe {

KnownNames known_names() {
  const auto set_of = [](const std::vector<std::string>& names) {
    return std::set<std::string>(names.begin(), names.end());
  };
  return {set_of(conversion_methods().names()), set_of(router_inits().names()), set_of(chat_templates().names()),
          set_of(eval_tasks().names()), set_of(export_format_names())};
}

}  // namespace moe
