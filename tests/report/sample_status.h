#pragma once

#include "report/status_page.h"

namespace moe::testing {

/// A coordinator at work: one pipeline of each kind of phase, a training with curve and expert load, an evaluation,
/// three gangs. Numbers are made up, seeded, and of the right size.
StatusPage sample_status();

/// The same with everything hostile that a text can hold in every field that is a text.
StatusPage hostile_status();

}  // namespace moe::testing
