#pragma once

#include <google/protobuf/timestamp.pb.h>

#include <string>

#include "moe/v1/state.pb.h"

/// Fields of messages as people read them in tables. Pure, except for the clock in age_text().
namespace moe {

/// "RUNNING": without the prefix of the enum.
std::string state_text(v1::JobState state);
std::string outcome_text(v1::AttemptOutcome outcome);

/// "2026-11-24 12:05:36 UTC"; "-" if it was never set.
std::string time_text(const google::protobuf::Timestamp& time);
/// "12:05:36", UTC.
std::string clock_text(const google::protobuf::Timestamp& time);
/// Time since then by this machine's clock, "3 min 20 s"; "-" if it was never set.
std::string age_text(const google::protobuf::Timestamp& time);
/// Between two times; "-" unless both are set.
std::string span_text(const google::protobuf::Timestamp& from, const google::protobuf::Timestamp& to);
bool is_set(const google::protobuf::Timestamp& time);

/// ASCII letters only.
std::string upper_case(std::string text);

/// "3.42 MB".
std::string bytes_text(int64_t bytes);

/// "training step 120/220  loss 2.1034  5210 tokens/s", or "" before the first report.
std::string progress_text(const v1::Progress& progress);

/// Name of the job kind, or "gate"; "-" if it says nothing.
std::string kind_text(const v1::Stage& stage);

}  // namespace moe
