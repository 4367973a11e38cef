#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "common/figure.h"
#include "common/registry.h"
#include "eval/text_analysis.h"
#include "runtime/opened_model.h"

namespace moe {

/// A model directory that an analysis without text looks into, and where its training began, if the job says so.
struct ModelSubject {
  const ModelDirectory& model;
  const ModelDirectory* baseline;  ///< of the same tensors; null for none
  Communicator& world;
  std::function<void()> unit_done;
};

/// One way to look at a model. Either `of_model` or `of_text` is set.
struct Analysis {
  std::string title;    ///< of its section of the page
  std::string summary;  ///< what it shows, in a sentence or two
  /// Why it cannot be made of this model, to follow its name; empty: it can. Of a job that names it it is the error,
  /// where a job leaves the choice to us it is passed over.
  std::function<std::string(const ModelDirectory&)> refusal;

  /// The result, the same on every rank. Collective. Calls unit_done as often as model_units says.
  std::function<nlohmann::json(const ModelSubject&)> of_model = {};
  std::function<int64_t(const ModelConfig&)> model_units = {};
  /// What watches text go through a model.
  std::function<std::unique_ptr<TextAnalysis>(const TextSetting&)> of_text = {};

  /// Its numbers for gates, by their names in common/measures.h, from a result.
  std::function<std::map<std::string, double>(const nlohmann::json& result)> metrics;
  /// What is drawn of a result.
  std::function<std::vector<Figure>(const nlohmann::json& result)> figures;

  bool needs_text() const { return of_text != nullptr; }
};

/// THE list of analyses, in the order of the page.
const Registry<Analysis>& analyses();

/// Those that look at text.
std::vector<std::string> text_analyses();

}  // namespace moe
