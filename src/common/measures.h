#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Something that a job measures. The one place that knows its name for people and programs: in gates, metrics.jsonl,
/// STAGE.json, summary.json and `moectl metrics` (name), and in Prometheus (series, with the job's own labels and
/// these). A job kind, a layer or a task makes the number; whatever shows, keeps or sends it finds it here.
struct Measure {
  std::string kind;        ///< of the job that measures it: "train"
  std::string name;        ///< "validation_loss"; of each domain of the data it is "<name>.<domain>", if it has domains
  std::string task{};      ///< which task or analysis of the kind measures it; empty: the kind itself
  std::string unit;        ///< as people read it: "nats per token", "seconds"; empty: a ratio, or a number without one
  std::string help;        ///< one sentence
  bool of_steps = false;   ///< one number for each step: a line of metrics.jsonl, a point of `moectl metrics`
  bool of_result = false;  ///< one number for the job: gates may name it
  bool of_work = false;    ///< counts the kind's units of work; at most one of a kind
  std::string domains{};   ///< field of the kind's message that lists data, by whose domains it is told apart too
  bool has_whole = true;   ///< false: only by domain
  bool is_optional = false;  ///< a setting decides whether it is measured, which its help names
  std::string needs{};       ///< field of the kind's message without which it is not measured
  std::string section{};     ///< section of the kind's message, defaults filled in, that it is a measure of
  /// Gauge of the last step's value; of a measure of work the counter <series>_total and the gauge <series>_target, how
  /// many there are. Empty: Prometheus does not get it under a name of its own.
  std::string series{};
  std::map<std::string, std::string> labels{};
  std::string domain_label{};  ///< label that takes the domain, for a series by domain
};

/// THE table of what is measured. (The loss that is trained on has a series, moe_train_loss, and no name. Series that
/// are no number of a step or a result - infos, counters, histograms, those of single experts - are declared in
/// metrics/*_catalogue.h.)
const std::vector<Measure>& measures();

/// Of what is measured under this name ("validation_loss.books"), whichever kind measures it: a name has one unit.
/// Empty where it has none, or is not in the table.
std::string unit_of(std::string_view name);

/// Those whose job is of `kind` and that stand in its result, in the order of the table.
std::vector<Measure> result_measures(std::string_view kind);

/// What counts the units of work of `kind`; null if nothing does.
const Measure* work_measure(std::string_view kind);

/// The measure of a step of `kind` that `name` means; null if it is none.
const Measure* step_measure(std::string_view kind, std::string_view name);

}  // namespace moe
