#include "report/sample_report.h"

#include <cmath>
#include <limits>

#include "common/rng.h"

namespace moe::testing {
namespace {

std::vector<std::vector<double>> random_load(uint32_t stream, double spread) {
  CounterRng rng(11, kStreamTest, stream);
  std::vector<std::vector<double>> load(6, std::vector<double>(8));
  for (auto& layer : load) {
    for (double& expert : layer) expert = std::floor(1000 * std::exp(spread * rng.normal()));
  }
  return load;
}

StageReport training(const std::string& name, int steps, double first, double last, uint32_t stream) {
  StageReport stage{name, "train", "SUCCEEDED", 93.4, {}, {}, {}, {}, ""};
  stage.metrics = {{"loss", last}, {"tokens_per_second", 5321.4}};
  CounterRng rng(12, kStreamTest, stream);
  for (int step = 1; step <= steps; ++step) {
    const double trend = last + (first - last) * std::exp(-5.0 * step / steps);
    LossPoint point{step, trend + 0.08 * rng.normal(), {}};
    if (step % (steps / 10) == 0) point.validation = trend + 0.1;
    stage.loss_curve.push_back(point);
  }
  stage.expert_load = random_load(stream, 0.25);
  for (int i = 1; i <= 10; ++i) {
    ExpertCourse& course = stage.expert_course;
    course.steps.push_back(i * steps / 10);
    for (int layer = 0; layer < 6; ++layer) {
      course.least_output_share[{layer, false}].push_back(layer == 5 ? 0.9 / i : 0.7 + 0.1 * rng.uniform());
      course.least_weight_rms[{layer, false}].push_back(0.95 + 0.01 * rng.uniform());
    }
  }
  return stage;
}

ModelReport model(const std::string& label, std::map<std::string, double> losses, uint32_t stream) {
  ModelReport report{
      label,   6823424,
      6823424, 0,
      0,       {},
      {},      stream == 0 ? ModelRole::kDense : stream == 1 ? ModelRole::kConverted : ModelRole::kTrained};
  for (const auto& [domain, loss] : losses) report.domains[domain] = {loss, std::exp(loss)};
  if (stream == 0) return report;
  report.parameters_total = 6829568;
  report.parameters_active = 4102144;
  report.experts = 8;
  report.top_k = 2;
  report.expert_load = random_load(stream, stream == 1 ? 0.9 : 0.3);
  return report;
}

}  // namespace

PipelineReport sample_report() {
  PipelineReport report;
  report.name = "quickstart";
  report.state = "SUCCEEDED";
  report.finished_at = "2026-03-01 14:05 UTC, 7 min 12 s on 2 CPU ranks";
  StageReport convert{
      "convert", "convert", "SUCCEEDED", 4.2, {{"mean_scale", 3.1}}, {}, {}, {3.02, 2.87, 3.4, 3.11, 2.95, 3.31}, ""};
  convert.is_conversion = true;
  convert.measured_on = "2048 held-out tokens";
  convert.metrics.merge(std::map<std::string, double>{{"seconds", 4.1},
                                                      {"peak_memory_bytes", 312345678},
                                                      {"step0_loss", 5.231},
                                                      {"step0_perplexity", 187},
                                                      {"step0_dense_loss", 2.313},
                                                      {"step0_loss_ratio_to_dense", 2.26},
                                                      {"step0_kl_divergence", 2.875},
                                                      {"step0_all_loss", 2.313},
                                                      {"step0_all_perplexity", 10.1},
                                                      {"step0_all_kl_divergence", 1.25e-12},
                                                      {"step0_all_logit_difference", 3.5e-7},
                                                      {"step0_ffn_error", 0.4321},
                                                      {"step0_load_max_over_mean", 2.234},
                                                      {"step0_load_min_over_mean", 0.216},
                                                      {"step0_dead_expert_fraction", 0.0625},
                                                      {"step0_router_logit_deviation", 1.004}});
  StageReport evaluate{"evaluate-converted", "evaluate", "SUCCEEDED", 21.5, {}, {}, random_load(9, 0.9), {}, ""};
  evaluate.expert_load[3][5] = 0;
  report.stages = {convert, evaluate, training("stage1", 220, 4.8, 2.6, 2), training("stage2", 160, 3.1, 2.3, 3)};
  report.stages.push_back({"recovered",
                           "gate",
                           "PASSED",
                           0,
                           {},
                           {},
                           {},
                           {},
                           "gate 'recovered' passes: evaluate-stage2.loss_ratio_to_baseline is 1.08, wanted <= 1.25"});
  report.models = {model("dense", {{"general", 2.313}, {"maths", 1.871}, {"books", 3.02}, {"code", 1.44}}, 0),
                   model("converted", {{"general", 5.231}, {"maths", 4.92}, {"books", 5.611}, {"code", 4.87}}, 1),
                   model("after stage1", {{"general", 2.612}, {"maths", 2.741}, {"books", 3.313}, {"code", 2.81}}, 2),
                   model("after stage2", {{"general", 2.671}, {"maths", 2.011}, {"books", 3.402}, {"code", 1.612}}, 3)};
  report.domain_order = {"general", "maths", "books", "code"};
  report.paths = {{"model", "runs/quickstart/stage2/output-t1"},
                  {"report", "runs/quickstart/report.html"},
                  {"summary", "runs/quickstart/a/rather/long/path/that/does/not/fit/on/a/phone/at/all/summary.json"}};
  report.config = "{\n  \"api_version\": \"moe/v1\",\n  \"name\": \"quickstart\",\n  \"a_long_line\": \"" +
                  std::string(160, 'x') + "\"\n}\n";
  return report;
}

PipelineReport sample_comparison() {
  PipelineReport report = sample_report();
  report.name = "compare-methods";
  const std::vector<std::string> methods{"independent-random",
                                         "independent-clustering",
                                         "independent-gradient",
                                         "sharing-inter",
                                         "importance",
                                         "residual",
                                         "weave",
                                         "analytic",
                                         "pruned"};
  ComparedConversion dense;
  dense.label = dense.variant = "./models/<base> & co";
  dense.dense_parameters = dense.parameters_active = 6823424;
  dense.converted = {{"general", 3.2}, {"maths", 2.1}, {"books", 3.9}, {"code", 0.6}};
  report.compared.push_back(dense);
  for (size_t i = 0; i < methods.size(); ++i) {
    const double worse = 0.25 * static_cast<double>(i + 1);
    ComparedConversion row = dense;
    row.label = row.variant = methods[i];
    row.experts = i % 2 == 0 ? "8, top-2" : "7 + 1 shared, top-1";
    row.parameters_active = 4102144;
    for (auto& [domain, loss] : row.converted) loss += 2 * worse;
    if (i != 6) {
      row.trained = dense.converted;
      for (auto& [domain, loss] : row.trained) loss += worse / 4;
    }
    row.divergence = 1.5 * worse;
    row.load = {{0.7, 1.4}};
    row.seconds = 65.0 + static_cast<double>(i);
    if (i < 5) row.export_format = "mixtral";
    report.compared.push_back(row);
    if (i >= 3) continue;
    // A second seed.
    row.label += "-s2";
    for (auto& [domain, loss] : row.converted) loss += 0.3;
    for (auto& [domain, loss] : row.trained) loss += 0.1;
    report.compared.push_back(row);
  }
  return report;
}

PipelineReport hostile_report() {
  PipelineReport report = sample_report();
  const std::string evil = "<script>alert('x')</script> \"quoted\" & \n\x01 \xff\xc3 ]]> ü 漢字";
  report.name = evil;
  report.state = "HELD";
  report.reason = evil;
  report.finished_at = evil;
  report.config = evil;
  for (StageReport& stage : report.stages) {
    stage.name = evil;
    stage.message = evil;
    for (LossPoint& point : stage.loss_curve) {
      if (point.step % 7 == 0) point.loss = std::numeric_limits<double>::quiet_NaN();
    }
  }
  report.stages[1].expert_load[2].assign(8, 0);
  for (ModelReport& row : report.models) row.label = evil;
  report.models[2].domains["general"] = {std::numeric_limits<double>::quiet_NaN(),
                                         std::numeric_limits<double>::infinity()};
  report.models[1].domains[evil] = {1, 2};
  report.paths.emplace_back(evil, evil);
  return report;
}

}  // namespace moe::testing
