#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>

#include "comm/communicator.h"

/// Sums and shares of the step-0 receipt, the same bits at any number of threads and ranks.
namespace moe {

/// In double, in the order of the values.
double sum_one_by_one(const at::Tensor& values_t);
/// The same of the squares of rows.
double sum_of_squares(const at::Tensor& values_tD);

/// part / whole; 0 where the whole is 0.
double share_of(double part, double whole);
/// The standard deviation of `count` values of these sums.
double deviation_of(double sum, double sum_of_squares, double count);

/// expert_load (of all ranks), least_load and greatest_load (over an even share) of a router. `load_E`: int64, of this
/// rank. Collective.
nlohmann::json load_report(const at::Tensor& load_E, const std::string& op, Communicator& world);

}  // namespace moe
