#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "common/error.h"
#include "coordinator/coordinator_fixture.h"

/// Gangs that fail jobs or refuse them.
namespace moe::testing {

/// Exit codes of a rank.
inline constexpr int kInternal = 70, kHardware = 71, kStorage = 74, kHang = 86;

inline absl::Status fail(CoordinatorFixture& fixture, const std::string& gang, const v1::Lease& lease, int exit_code,
                         const std::string& message = "the machine") {
  return fixture.complete(gang, lease, v1::ATTEMPT_OUTCOME_RETRYABLE, {}, message, exit_code);
}

inline absl::Status refuse(CoordinatorFixture& fixture, const std::string& gang, const v1::Lease& lease,
                           v1::RefusalKind kind, const std::string& file = "") {
  v1::CompleteAttemptRequest request = fixture.complete_request(gang, lease, v1::ATTEMPT_OUTCOME_RETRYABLE);
  request.set_exit_code(kind == v1::REFUSAL_KIND_INPUTS ? 65 : kStorage);
  request.set_message("data file " + file + " is missing");
  request.mutable_refusal()->set_kind(kind);
  if (!file.empty()) request.mutable_refusal()->add_unreadable(file);
  const absl::Status status = fixture.coordinator().complete_attempt(request).status();
  EXPECT_EQ(fixture.coordinator().complete_attempt(request).status(), status)
      << "a repeated call is answered as before";
  return status;
}

inline v1::Gang gang(CoordinatorFixture& fixture, const std::string& id) {
  const auto listed = fixture.coordinator().list_gangs({});
  for (const v1::Gang& shown : listed->gangs()) {
    if (shown.id() == id) return shown;
  }
  return {};
}

inline std::vector<std::string> submit_many(CoordinatorFixture& fixture, int count) {
  std::vector<std::string> jobs;
  for (int i = 0; i < count; ++i) {
    fixture.clock().advance(std::chrono::microseconds(1));
    jobs.push_back(fixture.submit(one_stage(concat("p", i))) + "-work");
  }
  return jobs;
}

}  // namespace moe::testing
