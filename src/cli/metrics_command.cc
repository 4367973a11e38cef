// metrics: the curves of a job as a table, as CSV or as lines of block characters.
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <vector>

#include "cli/commands.h"
#include "cli/curves.h"
#include "common/measures.h"
#include "common/option_checks.h"
#include "pipeline/problem.h"
#include "report/table.h"
#include "report/text.h"

namespace moe {
namespace {

using Align = TextTable::Align;

struct MetricsOptions {
  std::string job;
  std::vector<std::string> names;
  int64_t after = 0;
  bool csv = false;
  bool plot = false;
};

void print_csv(const Curves& curves, Shell& shell) {
  shell.out << "step";
  for (const std::string& name : curves.names) shell.out << ',' << name;
  shell.out << '\n';
  shell.out.precision(std::numeric_limits<double>::max_digits10);
  for (size_t row = 0; row < curves.steps.size(); ++row) {
    shell.out << curves.steps[row];
    for (size_t name = 0; name < curves.names.size(); ++name) {
      shell.out << ',';
      if (curves.has_value[name][row]) shell.out << curves.values[name][row];
    }
    shell.out << '\n';
  }
}

/// "loss, validation_loss: nats per token; step_seconds: seconds"
std::string units_line(const std::vector<std::string>& names) {
  std::map<std::string, std::vector<std::string>> by_unit;
  for (const std::string& name : names) {
    if (const std::string unit = unit_of(name); !unit.empty()) by_unit[unit].push_back(name);
  }
  std::string line;
  for (const auto& [unit, measured] : by_unit)
    line += concat(line.empty() ? "" : "; ", comma_separated(measured), ": ", unit);
  return line.empty() ? "" : line + "\n";
}

void print_table(const Curves& curves, Shell& shell) {
  std::vector<TextTable::Column> columns{{"STEP", Align::kNumber}};
  for (const std::string& name : curves.names) columns.push_back({name, Align::kNumber});
  TextTable table(columns);
  for (size_t row = 0; row < curves.steps.size(); ++row) {
    std::vector<std::string> cells{std::to_string(curves.steps[row])};
    for (size_t name = 0; name < curves.names.size(); ++name) {
      cells.push_back(curves.has_value[name][row] ? short_number(curves.values[name][row]) : "");
    }
    table.add_row(cells);
  }
  shell.print(table.render(shell.width) + units_line(curves.names));
}

void print_plot(const Curves& curves, Shell& shell) {
  for (size_t name = 0; name < curves.names.size(); ++name) shell.print(curve_line(curves, name) + "\n");
}

ExitStatus run_metrics(const MetricsOptions& options, Shell& shell) {
  v1::QueryMetricsRequest request;
  request.set_job_id(options.job);
  request.set_after_step(options.after);
  for (const std::string& name : options.names) request.add_names(name);
  v1::QueryMetricsResponse answer;
  with_job_hint(shell.client, options.job, [&] { answer = shell.client.query_metrics(request); });
  if (shell.json) {
    shell.print_json(answer);
    return ExitStatus::kDone;
  }
  const Curves curves = curves_of(answer, options.names);
  if (curves.steps.empty()) {
    shell.note(concat(options.job, " has reported no ",
                      options.names.empty() ? "metrics" : comma_separated(options.names), " yet"));
  } else if (options.csv) {
    print_csv(curves, shell);
  } else if (options.plot) {
    print_plot(curves, shell);
  } else {
    print_table(curves, shell);
  }
  return ExitStatus::kDone;
}

}  // namespace

Subcommand add_metrics_command(CLI::App& app) {
  auto options = std::make_shared<MetricsOptions>();
  CLI::App* command = app.add_subcommand("metrics", "Print the training curves of a job");
  command->add_option("JOB", options->job, "Job")->required();
  command->add_option("--name", options->names, "Only these, for example loss,validation_loss")->delimiter(',');
  command->add_option("--after", options->after, "Only steps after this one")->check(nonnegative_number());
  CLI::Option* csv = command->add_flag("--csv", options->csv, "Comma-separated, all digits");
  command->add_flag("--plot", options->plot, "One line of block characters per metric")->excludes(csv);
  command->footer(
      "Examples:\n"
      "  moectl metrics quickstart-7f3k2m9a-stage1 --name loss --plot\n"
      "  moectl metrics quickstart-7f3k2m9a-stage1 --csv >stage1.csv");
  return {command, [options](Shell& shell) { return run_metrics(*options, shell); }};
}

}  // namespace moe
