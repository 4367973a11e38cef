#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/registry.h"
#include "model/tensor_piece.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// What a client makes of an export.
struct ClientNote {
  std::string client;
  bool is_exact = true;  ///< gives the logits of the native model
  std::string note;      ///< may be empty
};

/// What stands in the exported directory.
struct ExportContents {
  nlohmann::json config;
  std::vector<PiecedTensor> tensors;  ///< of pieces of our logical ones
  /// Values of all experts: as they are, and as they are stored.
  int64_t expert_values = 0;
  int64_t stored_expert_values = 0;
  std::vector<std::string> notes;  ///< what a reader of the result should know
};

/// One form that a model can be written in.
struct ExportFormat {
  std::string summary;
  bool is_stock = false;  ///< one of those that `auto` chooses from: export_plan.h
  /// Why the format does not hold the model exactly, all reasons; empty: it does.
  std::function<std::vector<std::string>(const ModelDirectory& model, const v1::ExportSpec& spec)> reasons_against;
  /// Of a model that it holds.
  std::function<std::vector<ClientNote>(const ModelConfig& config)> clients;
  std::function<ExportContents(const ModelDirectory& model, const v1::ExportSpec& spec)> contents;
};

/// THE list of formats, by the name that a user gives.
const Registry<ExportFormat>& export_formats();

/// The names of the list, and "auto" before them.
std::vector<std::string> export_format_names();

}  // namespace moe
