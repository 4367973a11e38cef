#include "eval/analyzer.h"

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "eval/analyses.h"
#include "eval/held_out.h"
#include "model/moe/fresh_router.h"
#include "model/tensor_specs.h"
#include "runtime/loaded_model.h"
#include "runtime/model_settings.h"

namespace moe {
namespace {

using nlohmann::json;

/// Both models, opened; the second only if the job has one.
struct Subjects {
  OpenedModel model;
  std::optional<OpenedModel> baseline;

  void require_same_tensors() const {
    if (!baseline) return;
    // Selection biases are not compared: a training may add them to routers that had none.
    ModelConfig now = model.directory.config(), before = baseline->directory.config();
    for (ModelConfig* const config : {&now, &before}) {
      if (!config->moe) continue;
      config->moe->has_selection_bias = false;
      if (config->moe->attention) config->moe->attention->has_selection_bias = false;
    }
    if (have_same_tensors(now, before)) return;
    throw InvalidArgument(concat("analyze: baseline ", baseline->directory.path().string(), " has not the tensors of ",
                                 model.directory.path().string(),
                                 "; give the model that its training began with, or leave baseline out"));
  }
};

/// Which analyses are made, and why others are not.
struct Choice {
  std::vector<std::string> of_model, of_text;
  json passed_over = json::object();
};

Choice choose(const v1::AnalyzeSpec& spec, const ModelDirectory& model) {
  Choice choice;
  const bool is_default = spec.analyses().empty();
  const std::vector<std::string> all = analyses().names();
  const std::set<std::string> named(spec.analyses().begin(), spec.analyses().end());
  for (const std::string& name : named) analyses().at(name);  // which says what it does not know
  for (const std::string& name : all) {
    const Analysis& analysis = analyses().at(name);
    if (is_default ? analysis.needs_text() && spec.data().empty() : !named.contains(name)) continue;
    if (analysis.needs_text() && spec.data().empty())
      throw InvalidArgument(concat("analyze: ", name, " looks at text; list JSONL files in `data`"));
    if (const std::string reason = analysis.refusal(model); !reason.empty()) {
      if (!is_default) throw InvalidArgument(concat("analyze: ", name, " of ", model.path().string(), ": ", reason));
      choice.passed_over[name] = reason;
      continue;
    }
    (analysis.needs_text() ? choice.of_text : choice.of_model).push_back(name);
  }
  return choice;
}

class Analyzer {
 public:
  Analyzer(const AnalyzeRequest& request, Communicator& world)
      : request_(request), world_(world), mesh_(world, request.gang.expert_parallel()) {}

  json run() {
    const Subjects subjects = open();
    std::optional<LoadedModel> loaded = choice_.of_text.empty() ? std::nullopt : std::optional(load(request_.model));
    if (loaded && has_fresh_routers()) draw_routers(loaded->decoder.parameters(), request_.seed);
    std::optional<HeldOutData> data;
    if (loaded)
      data = read_held_out(*loaded, held_out_text(request_.spec), request_.monitor, world_, "before the analysis");
    for (const std::string& name : choice_.of_model)
      units_ += analyses().at(name).model_units(subjects.model.directory.config());
    if (data) units_ += data->rows() * (request_.baseline ? 2 : 1);

    json result = {{"analyses", json::object()}, {"passed_over", choice_.passed_over}};
    if (has_fresh_routers()) result["routers"] = "fresh";
    look_at_model(subjects, result["analyses"]);
    if (!loaded) return result;
    const TextAnalyses of_model = look_at_text(*loaded, *data, result["analyses"], {});
    if (request_.baseline) look_at_text(load(*request_.baseline), *data, result["baseline"]["analyses"], of_model);
    return result;
  }

 private:
  Subjects open() {
    Subjects subjects{open_model(request_.model, {}, world_), std::nullopt};
    if (request_.baseline) subjects.baseline = open_model(*request_.baseline, {}, world_);
    std::map<std::string, std::string> configs;
    agree(world_, "choose analyses", [&] {
      subjects.require_same_tensors();
      choice_ = choose(request_.spec, subjects.model.directory);
      if (has_fresh_routers() && routers_of(subjects.model.directory.config()).empty())
        throw InvalidArgument(concat("analyze: routers fresh draws routers anew, and ",
                                     subjects.model.directory.path().string(), " has none; leave routers out"));
      const std::filesystem::path config = subjects.model.directory.path() / "config.json";
      configs[config.string()] = xxh3_hex_of_file(config);
    });
    require_same_files(world_, "before the analysis", configs);
    return subjects;
  }

  /// Those of the model; the baseline keeps its own.
  bool has_fresh_routers() const { return request_.spec.routers() == "fresh"; }

  LoadedModel load(const std::filesystem::path& path) {
    return load_model(path, mesh_, weight_type(request_.gang), request_.spec.template_(),
                      [&](const ModelConfig& config) { sequence_length_for(config, request_.spec.sequence_length()); });
  }

  void look_at_model(const Subjects& subjects, json& results) {
    const ModelSubject subject{.model = subjects.model.directory,
                               .baseline = subjects.baseline ? &subjects.baseline->directory : nullptr,
                               .world = world_,
                               .unit_done = [this] { finish_units(1); }};
    for (const std::string& name : choice_.of_model) results[name] = analyses().at(name).of_model(subject);
  }

  using TextAnalyses = std::vector<std::unique_ptr<TextAnalysis>>;  ///< in the order of choice_.of_text

  /// `of_model`: empty, or those of the model that this one is the baseline of.
  TextAnalyses look_at_text(const LoadedModel& model, HeldOutData& data, json& results, const TextAnalyses& of_model) {
    TextSetting setting{.config = model.config(), .domains = domains_of(data)};
    TextAnalyses owned;
    std::vector<TextAnalysis*> all;
    for (size_t i = 0; i < choice_.of_text.size(); ++i) {
      setting.of_model = of_model.empty() ? nullptr : of_model[i].get();
      all.push_back(owned.emplace_back(analyses().at(choice_.of_text[i]).of_text(setting)).get());
    }
    run_text_analyses(model, data, mesh_, all, [this](int64_t rows) { finish_units(rows); });
    for (size_t i = 0; i < all.size(); ++i) results[choice_.of_text[i]] = all[i]->result(world_);
    return owned;
  }

  void finish_units(int64_t count) {
    done_ += count;
    request_.monitor.unit_done({.phase = "analyzing", .unit = "part", .done = done_, .all = units_});
  }

  const AnalyzeRequest& request_;
  Communicator& world_;
  Mesh mesh_;
  Choice choice_;
  int64_t units_ = 0, done_ = 0;
};

}  // namespace

json analyze(const AnalyzeRequest& request, Communicator& world) {
  return Analyzer(request, world).run();
}

}  // namespace moe
