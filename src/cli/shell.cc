#include "cli/shell.h"

#include <google/protobuf/util/json_util.h>

#include <array>
#include <iostream>
#include <utility>

#include "pipeline/defaults.h"

namespace moe {
namespace {

struct Paint {
  const char* word;
  const char* color;
};

constexpr std::array<Paint, 16> kPaints{{{"SUCCEEDED", "32"},
                                         {"PASSED", "32"},
                                         {"APPROVED", "32"},
                                         {"RUNNING", "36"},
                                         {"STOPPING", "33"},
                                         {"HELD", "33"},
                                         {"PAUSED", "33"},
                                         {"WARNED", "33"},
                                         {"FAILED", "31"},
                                         {"CANCELED", "31"},
                                         {"PERMANENT", "31"},
                                         {"RETRYABLE", "33"},
                                         {"LOST", "31"},
                                         {"unheard", "33"},
                                         {"quarantined", "31"},
                                         {"lost", "31"}}};

bool is_border(char c) {
  return c == ' ' || c == '\n' || c == '\0';
}

/// States as whole words get their colour; the columns stay as wide as they were.
std::string painted(const std::string& text) {
  std::string out;
  size_t i = 0;
  while (i < text.size()) {
    bool found = false;
    for (const Paint& paint : kPaints) {
      const std::string word = paint.word;
      if (!is_border(i == 0 ? '\0' : text[i - 1]) || text.compare(i, word.size(), word) != 0) continue;
      const size_t end = i + word.size();
      if (!is_border(end < text.size() ? text[end] : '\0')) continue;
      out += concat("\033[", paint.color, "m", word, "\033[0m");
      i = end;
      found = true;
      break;
    }
    if (!found) out += text[i++];
  }
  return out;
}

}  // namespace

void Shell::note(const std::string& text) {
  err << "moectl: " << text << std::endl;
}

void Shell::print(const std::string& text) {
  out << (has_colors ? painted(text) : text);
}

void Shell::print_json(const google::protobuf::Message& message) {
  out << to_json(message);
}

void Shell::print_json_line(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  MOE_CHECK(status.ok(), status.ToString());
  out << text << std::endl;
}

void Shell::begin_to_follow(const std::string& message) {
  client.set_patience(outage, [this](const std::string& text) { note(text); });
  interrupts.set_message(message);
}

Target find_target(Client& client, const std::string& id) {
  // The id of a pipeline is the beginning of its jobs' ids: pipelines are asked first.
  try {
    return client.get_pipeline(id);
  } catch (const CommandError& error) {
    if (error.status() != ExitStatus::kNotFound) throw;
  }
  try {
    return client.get_job(id);
  } catch (const CommandError& error) {
    if (error.status() != ExitStatus::kNotFound) throw;
  }
  throw CommandError(ExitStatus::kNotFound,
                     concat("no pipeline and no job has the id '", id,
                            "' or one that begins with it; `moectl get pipelines` and `moectl get "
                            "jobs` list them"));
}

void with_job_hint(Client& client, const std::string& id, const std::function<void()>& action) {
  try {
    action();
  } catch (const CommandError& error) {
    if (error.status() != ExitStatus::kNotFound && error.status() != ExitStatus::kUsage) throw;
    std::string jobs;
    try {
      const v1::Pipeline pipeline = client.get_pipeline(id);
      for (const v1::StageState& stage : pipeline.stages()) {
        if (!stage.job_id().empty()) jobs += concat(jobs.empty() ? "" : ", ", stage.job_id());
      }
      jobs = concat(pipeline.id(), " is a pipeline; name one of its jobs: ", jobs);
    } catch (const CommandError&) {
      // No pipeline either: the first error says it.
    }
    if (!jobs.empty()) throw CommandError(error.status(), jobs);
    throw;
  }
}

}  // namespace moe
