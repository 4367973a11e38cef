#pragma once

#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "eval/evaluator.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe::testing {

/// A tiny mixture ("moe"), a dense model ("dense") to compare it with, and held-out ids of two domains, "a" and "b".
class EvaluationTest : public ::testing::Test {
 protected:
  EvaluationTest() {
    write_tiny_model(folder_ / "moe", tiny_moe_config(4, 2, 12), 1, at::kFloat);
    write_tiny_model(folder_ / "dense", tiny_config(), 1, at::kFloat);
    write_random_documents(folder_ / "a.jsonl", 20, 3, 30, 61, 1);
    write_random_documents(folder_ / "b.jsonl", 9, 3, 30, 61, 2);
    for (const char* domain : {"a", "b"}) {
      v1::DataSource* source = spec_.add_data();
      source->set_path(folder_ / (std::string(domain) + ".jsonl"));
      source->set_weight(1);
      source->set_domain(domain);
    }
    spec_.set_max_tokens(0);
    spec_.set_append_eos(true);
  }

  /// The tasks of spec_, the same on every rank.
  nlohmann::json run(const std::string& model, const std::string& baseline = "", int ranks = 1, int expert_parallel = 1,
                     WorkMonitor& monitor = unwatched()) const {
    v1::GangSpec gang;
    gang.set_dtype("float64");
    gang.set_expert_parallel(expert_parallel);
    nlohmann::json result;
    std::mutex mutex;
    run_ranks(ranks, [&](Communicator& world) {
      EvaluateRequest request{
          .spec = spec_, .gang = gang, .seed = seed_, .model = folder_ / model, .baseline = {}, .monitor = monitor};
      if (!baseline.empty()) request.baseline = folder_ / baseline;
      nlohmann::json mine = evaluate(request, world);
      const std::lock_guard<std::mutex> lock(mutex);
      if (!result.is_null()) {
        EXPECT_EQ(result, mine) << "ranks report different results";
      }
      result = std::move(mine);
    });
    return result;
  }

  TempDir folder_;
  v1::EvaluateSpec spec_;
  uint64_t seed_ = 7;
};

}  // namespace moe::testing
