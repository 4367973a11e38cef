#include "worker/known_names.h"

#include <string>
#include <vector>

#include "convert/conversion_methods.h"
#include "convert/router_init.h"
#include "data/chat/chat_templates.h"
#include "eval/analyses.h"
#include "eval/eval_tasks.h"
#include "export/export_formats.h"

namespace moe {

KnownNames known_names() {
  KnownNames names;
  const auto add = [&names](const std::string& list, const std::vector<std::string>& all) {
    names[list] = {all.begin(), all.end()};
  };
  add("methods", conversion_methods().names());
  for (const std::string& name : conversion_methods().names()) {
    const ConversionMethod& method = conversion_methods().at(name);
    if (method.needs.text()) names["methods_with_text"].insert(name);
    if (method.has_router) names["methods_with_router"].insert(name);
    if (method.has_others) names["methods_with_others"].insert(name);
    if (method.prompts) names["methods_with_prompts"].insert(name);
  }
  // "method.option".
  for (const std::string& method : conversion_methods().names()) {
    for (const MethodOption& option : conversion_methods().at(method).options)
      names["method_options"].insert(method + "." + option.name);
  }
  add("router_inits", router_inits().names());
  for (const std::string& init : router_inits().names()) {
    for (const MethodOption& option : router_inits().at(init).options)
      names["router_init_options"].insert(init + "." + option.name);
  }
  add("templates", chat_templates().names());
  add("tasks", eval_tasks().names());
  add("analyses", analyses().names());
  add("text_analyses", text_analyses());
  add("export_formats", export_format_names());
  return names;
}

}  // namespace moe
