#include <CLI/App.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "convert/conversion_methods.h"
#include "convert/router_init.h"
#include "worker/commands.h"

namespace moe {
namespace {

/// What a method looks at, in the words of docs/adding.md.
std::string needs_text(const MethodNeeds& needs) {
  std::string text;
  const auto add = [&text](bool is_needed, const char* what) {
    if (is_needed) text += (text.empty() ? "" : ", ") + std::string(what);
  };
  add(needs.weights, "weights");
  add(needs.hidden_states, "hidden states");
  add(needs.activations, "activations");
  add(needs.gradients, "gradients");
  return text;
}

nlohmann::json describe_options(const std::vector<MethodOption>& all) {
  nlohmann::json options = nlohmann::json::array();
  for (const MethodOption& option : all) {
    nlohmann::json item = {
        {"name", option.name}, {"default", option.fallback}, {"values", option.range()}, {"help", option.help}};
    if (!option.published.empty()) item["published"] = option.published;
    options.push_back(std::move(item));
  }
  return options;
}

nlohmann::json describe_inits() {
  nlohmann::json inits = nlohmann::json::array();
  for (const std::string& name : router_inits().names()) {
    const RouterInit& init = router_inits().at(name);
    inits.push_back({{"name", name},
                     {"summary", init.summary},
                     {"calibration_text", init.needs_features},
                     {"options", describe_options(init.options)}});
  }
  return inits;
}

nlohmann::json describe_methods() {
  nlohmann::json methods = nlohmann::json::array();
  for (const std::string& name : conversion_methods().names()) {
    const ConversionMethod& method = conversion_methods().at(name);
    const std::string router =
        method.own_router_init ? method.own_router_init(MethodOptions(method.options, {})) : std::string();
    nlohmann::json described = {{"name", name},
                                {"summary", method.summary},
                                {"partition", method.is_partition},
                                {"calibration_text", method.needs.text()},
                                {"needs", needs_text(method.needs)},
                                {"shared_experts", method.has_shared},
                                {"expert_width", method.has_free_width},
                                {"options", describe_options(method.options)}};
    if (!router.empty()) described["router_init"] = router;
    methods.push_back(std::move(described));
  }
  return methods;
}

void print_options(const nlohmann::json& options) {
  for (const nlohmann::json& option : options) {
    std::cout << "    options." << option["name"].get<std::string>() << "  " << option["help"].get<std::string>()
              << ": " << option["values"].get<std::string>() << "; default " << option["default"].get<std::string>();
    if (option.contains("published")) std::cout << ", published " << option["published"].get<std::string>();
    std::cout << "\n";
  }
}

void print_methods(const nlohmann::json& methods) {
  for (const nlohmann::json& method : methods) {
    std::cout << method["name"].get<std::string>() << "\n  " << method["summary"].get<std::string>() << "\n";
    const auto needs = method["needs"].get<std::string>();
    std::cout << "  looks at " << (needs.empty() ? "nothing" : needs)
              << (method["calibration_text"].get<bool>() ? " (needs calibration.data)" : "")
              << (method["shared_experts"].get<bool>() ? "; takes shared_experts" : "")
              << (method["expert_width"].get<bool>() ? "; takes expert_width" : "") << "\n";
    if (method.contains("router_init"))
      std::cout << "  goes with router: {init: " << method["router_init"].get<std::string>() << "}\n";
    print_options(method["options"]);
  }
}

void print_inits(const nlohmann::json& inits) {
  for (const nlohmann::json& init : inits) {
    std::cout << "router.init " << init["name"].get<std::string>() << "\n  " << init["summary"].get<std::string>()
              << (init["calibration_text"].get<bool>() ? " (needs calibration.data)" : "") << "\n";
    print_options(init["options"]);
  }
}

ExitCode list_methods(const std::string& format) {
  const nlohmann::json methods = describe_methods(), inits = describe_inits();
  if (format == "json") {
    std::cout << nlohmann::json{{"methods", methods}, {"router_inits", inits}}.dump(2) << "\n";
  } else {
    print_methods(methods);
    print_inits(inits);
  }
  return ExitCode::kDone;
}

}  // namespace

Subcommand add_methods_command(CLI::App& app) {
  auto format = std::make_shared<std::string>("text");
  CLI::App* command = app.add_subcommand(
      "methods", "The ways to build experts and to begin routers that this program knows, with their options");
  command->add_option("-o,--output", *format, "text or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  command->footer("Examples:\n  moe-worker methods\n  moe-worker methods -o json");
  return {command, [format](Communicator&) { return list_methods(*format); }};
}

}  // namespace moe
