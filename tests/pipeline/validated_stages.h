#pragma once

#include <string>
#include <vector>

#include "pipeline/known_names.h"
#include "pipeline/problem_texts.h"

/// Pipelines of a few stages, for the tests of what is wrong with their fields.
namespace moe::testing {

inline constexpr char kConvert[] =
    "  - {name: convert, convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: 2}, calibration: {data: "
    "[{path: c.jsonl}]}}}\n";
inline constexpr char kTrain[] =
    "  - {name: stage1, train: {input: convert.model, steps: 10, data: [{path: a.jsonl}]}}\n";
inline constexpr char kEvaluate[] =
    "  - {name: evaluate, evaluate: {input: stage1.model, baseline: dense, data: [{path: maths.valid.jsonl}, {path: "
    "b/code.jsonl}]}}\n";

/// Problems of a pipeline with these stages, which start at line 6 (line 5 holds the defaults).
inline std::vector<std::string> problems_of(const std::string& stages, const std::string& defaults = "{}",
                                            const KnownNames& known = {}) {
  return texts(load_pipeline("apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\ndefaults: " +
                                 defaults + "\nstages:\n" + stages,
                             "a.yaml", {}, known));
}

inline std::string convert(const std::string& fields) {
  return "  - {name: convert, convert: {input: dense, " + fields + "}}\n";
}
inline std::string train(const std::string& fields) {
  return "  - {name: t, train: {input: ./m, " + fields + "}}\n";
}
inline std::string gate(const std::string& fields) {
  return "  - {gate: {" + fields + "}}\n";
}

}  // namespace moe::testing
