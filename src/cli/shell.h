#pragma once

#include <chrono>
#include <functional>
#include <iosfwd>
#include <string>
#include <variant>

#include "cli/client.h"
#include "cli/interrupts.h"

namespace google::protobuf {
class Message;
}

/// What every command works with: the coordinator, where data (out) and all else (err) goes, and how. Made by main once
/// the command line is parsed; one thread.
namespace moe {

struct Shell {
  Client& client;
  Interrupts& interrupts;
  std::ostream& out;
  std::ostream& err;
  /// -o json.
  bool json = false;
  bool has_colors = false;
  /// Columns of the terminal; very many when the output is no terminal, so that nothing is shortened.
  int width = 0;
  /// How long commands that follow something stand the coordinator's absence.
  std::chrono::milliseconds outage{0};

  /// "moectl: text" on err.
  void note(const std::string& text);
  /// Data for people, with colours on states where wanted.
  void print(const std::string& text);
  /// A message as indented JSON with the schema's field names.
  void print_json(const google::protobuf::Message& message);
  /// The same on one line, for a stream of several.
  void print_json_line(const google::protobuf::Message& message);
  /// From now on the coordinator may go away for a while, and an interrupt says `message`.
  void begin_to_follow(const std::string& message);
};

/// A pipeline or a job, by its id or the beginning of it. Throws CommandError(kNotFound) with a hint.
using Target = std::variant<v1::Pipeline, v1::Job>;
Target find_target(Client& client, const std::string& id);

/// Calls `action`, which wants a job's id; if there is no such job but a pipeline of this id, the error lists its jobs.
void with_job_hint(Client& client, const std::string& id, const std::function<void()>& action);

}  // namespace moe
