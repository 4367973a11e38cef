#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "common/job_folder.h"
#include "moe/v1/pipeline.pb.h"
#include "moe/v1/state.pb.h"
#include "report/run_summary.h"
#include "testing/temp_dir.h"

namespace moe::testing {

inline constexpr char kFound[] = "gate 'recovered' fails: evaluate.loss is 2.5, wanted <= 2";

inline nlohmann::json model_facts(int experts) {
  return {{"parameters_total", 6823424},
          {"parameters_active", 4102144},
          {"experts", experts},
          {"top_k", experts > 0 ? 2 : 0}};
}

// convert, train, evaluate, and a gate that holds; jobs lie where the coordinator puts them.
class RunSummaryTest : public ::testing::Test {
 protected:
  RunSummaryTest() {
    spec_.set_name("quick");
    spec_.add_stages()->set_name("convert");
    spec_.mutable_stages(0)->mutable_convert()->set_input("./dense");
    spec_.add_stages()->set_name("train");
    spec_.mutable_stages(1)->mutable_train()->set_input("convert.model");
    spec_.mutable_stages(1)->mutable_train()->set_steps(3);
    spec_.add_stages()->set_name("evaluate");
    spec_.mutable_stages(2)->mutable_evaluate()->set_input("train.model");
    for (const char* domain : {"maths", "general"}) {
      spec_.mutable_stages(2)->mutable_evaluate()->add_data()->set_domain(domain);
    }
    spec_.add_stages()->mutable_gate()->set_name("recovered");
    state_.set_phase("HELD");
    for (const char* name : {"convert", "train", "evaluate"}) add_stage(name, false, "SUCCEEDED", "");
    add_stage("recovered", true, "HELD", kFound);
    (*state_.mutable_stages(1)->mutable_metrics())["loss"] = 2.6;
    make_directories(folder("train").attempt_path(2));
    write_file_atomically(folder("train").attempt_path(2) / "metrics.jsonl",
                          "{\"step\": 1, \"loss\": 4.5}\n{\"step\": 2, \"loss\": 3.5}\n{\"step\": 3, \"lo");
    make_directories(run_root());
  }

  void add_stage(const std::string& name, bool is_gate, const std::string& status, const std::string& message) {
    v1::StageState& stage = *state_.add_stages();
    stage.set_name(name);
    stage.set_is_gate(is_gate);
    stage.set_status(status);
    stage.set_message(message);
  }

  std::filesystem::path run_root() const { return root_ / "quick-7f3k"; }
  JobFolder folder(const std::string& stage) const { return JobFolder(root_ / ("quick-7f3k-" + stage)); }

  static nlohmann::json record(const std::string& stage, const std::string& kind, int attempt,
                               const nlohmann::json& details) {
    return {{"stage", stage},
            {"kind", kind},
            {"attempt", attempt},
            {"seconds", 12.5},
            {"finished_at", "2026-11-24T12:00:00Z"},
            {"metrics", nlohmann::json::object()},
            {"details", details}};
  }

  static std::vector<nlohmann::json> records() {
    const nlohmann::json domains = {{"general", {{"loss", 2.5}, {"perplexity", 12.18}}},
                                    {"maths", {{"loss", 2.25}, {"perplexity", 9.49}}}};
    return {record("convert", "convert", 1, {{"output_scales", {3.0, 2.5}}}),
            record("train", "train", 2,
                   {{"curve", {{1, 4.5}, {2, nullptr}, {3, 2.6}}},
                    {"validation", {{{"step", 3}, {"loss", 2.75}}}},
                    {"expert_load", {{10, 30}, {25, 15}}}}),
            record("evaluate", "evaluate", 1,
                   {{"model", model_facts(8)},
                    {"tasks", {{"perplexity", {{"domains", domains}}}}},
                    {"baseline", {{"model", model_facts(0)}, {"tasks", {{"perplexity", {{"domains", domains}}}}}}}})};
  }

  std::string write(const std::vector<nlohmann::json>& made) const {
    return write_run_summary(run_root(), spec_, state_, made,
                             [this](const std::string& stage) { return folder(stage).path(); });
  }

  std::string report_of(const std::vector<nlohmann::json>& made) const {
    write(made);
    return read_file(run_root() / "report.html");
  }

  TempDir root_;
  v1::PipelineSpec spec_;
  v1::Pipeline state_;
};

}  // namespace moe::testing
