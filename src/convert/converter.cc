#include "convert/converter.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/log.h"
#include "convert/calibration_pass.h"
#include "convert/conversion.h"
#include "convert/conversion_output.h"
#include "convert/layer_aligner.h"
#include "convert/layer_planner.h"
#include "convert/other_models.h"
#include "convert/prompt_pass.h"
#include "convert/reconstruction.h"
#include "convert/request_check.h"
#include "convert/router_init.h"
#include "convert/step0_receipt.h"

namespace moe {
namespace {

using nlohmann::json;

/// Whether those of all experts follow from config and spec.
bool has_known_widths(const Conversion& conversion) {
  if (!conversion.spec.has_ffn()) return true;
  const ConversionMethod& method = conversion.method;
  return method.widths && !method.widths(conversion.source.config(), conversion.spec).experts.empty();
}

/// The work of one conversion; every rank has one.
class Converter {
 public:
  Converter(const ConvertRequest& request, std::map<std::string, std::string> digests, Communicator& world)
      : request_(request), world_(world), conversion_(request, std::move(digests)), output_(conversion_, world) {}

  json run() {
    warn_of_router();
    prepare();
    LayerPlanner planner(conversion_, pass_ ? &*pass_ : nullptr, prompts_ ? &*prompts_ : nullptr, world_);
    if (plans_ahead_) plan_all(planner);
    if (plans_ahead_) agree(world_, "open the output", [&] { output_.open(); });
    output_.write_before_layers();
    for (int64_t layer = 0; layer < layers(); ++layer) {
      if (!plans_ahead_) planner.plan(layer);
      agree(world_, concat("write layer ", layer), [&] {
        output_.write_layer(layer);
        conversion_.release_layer(layer);
      });
      finish_unit();
    }
    output_.write_after_layers();
    warn_of_rows_alike();
    json report = describe();
    agree(world_, "finish the weights", [&] { output_.finish_weights(); });
    if (pass_) report["receipt"] = receipt();
    agree(world_, "finish conversion", [&] { output_.commit(report); });
    return report;
  }

 private:
  int64_t layers() const { return conversion_.config.num_layers; }

  void plan_all(LayerPlanner& planner) {
    std::optional<Reconstruction> reconstruction;
    if (conversion_.spec.has_reconstruction())
      reconstruction.emplace(conversion_, *pass_, world_, [this](int64_t layers) { finish_units(layers); });
    for (int64_t layer = 0; layer < layers(); ++layer) {
      planner.plan(layer);
      if (conversion_.is_mixture[layer]) set_widths(layer, conversion_.layers[layer].planned->widths());
      finish_unit();
      if (reconstruction && conversion_.is_mixture[layer]) reconstruction->add(layer);
    }
    if (!reconstruction) return;
    reconstruction->finish();
    if (aligns_) align_reconstructed(conversion_, *pass_, world_, [this] { finish_unit(); });
  }

  /// Everything that comes before the first layer is planned.
  void prepare() {
    const ConversionMethod& method = conversion_.method;
    const bool has_text = needs_calibration(method, conversion_.spec);
    units_ = layers() * (1 + (plans_ahead_ ? 1 : 0) + (method.needs.gradients ? 1 : 0) + (has_text ? 1 : 0));
    if (conversion_.spec.has_reconstruction()) {
      units_ += std::count(conversion_.is_mixture.begin(), conversion_.is_mixture.end(), true);
      if (aligns_) units_ += layers();
    }
    agree(world_, "prepare conversion", [&] {
      if (const PromptNeeds needs = prompt_needs(method, conversion_.options); needs != PromptNeeds::kNone)
        prompts_.emplace(conversion_.spec.ffn(), conversion_.source.config(), request_.text, needs, world_);
      if (world_.rank() == 0 && plans_ahead_) PendingDirectory::require_absent(request_.output);
      if (!plans_ahead_) {
        for (int64_t layer = 0; layer < layers(); ++layer) {
          if (conversion_.is_mixture[layer])
            set_widths(layer, method.widths(conversion_.source.config(), conversion_.spec));
        }
        output_.open();
      }
    });
    if (has_text) read_text();
    begin_streams();
    if (!method.needs.gradients) return;
    pass_->measure_importance(
        conversion_.source, conversion_.digests.at(request_.source.path().string()), method, conversion_.options,
        [this](int64_t) { finish_unit(); }, world_);
  }

  void read_text() {
    pass_.emplace(conversion_.spec, request_.seed, conversion_.source.config(), request_.text, conversion_.method.needs,
                  world_, CalibrationStore(request_.calibrations));
    request_.monitor.data_read(pass_->text().file_digests);
    require_enough_text();
    if (request_.text_read) request_.text_read(pass_->text());
  }

  /// Text and prompts become embeddings.
  void begin_streams() {
    if (!pass_ && !prompts_) return;
    agree(world_, "embed texts", [&] {
      const at::Tensor embedding_VD = conversion_.source.embedding();
      if (prompts_) prompts_->embed(embedding_VD);
      if (pass_) pass_->embed(embedding_VD, conversion_.made_embedding());
      conversion_.release_ends();
    });
  }

  /// Before any work on it.
  void require_enough_text() {
    const ConversionMethod& method = conversion_.method;
    const v1::ConvertSpec& spec = conversion_.spec;
    at::Tensor documents = at::full({1}, static_cast<int64_t>(pass_->text().cu_seqlens.size()) - 1, at::kLong);
    world_.all_reduce_sum(documents, "calibration documents");
    const TextSize size{.documents = documents.item<int64_t>(), .tokens = pass_->text().total_tokens};
    std::string problem = method.text_problem ? method.text_problem(spec.ffn(), conversion_.options, size) : "";
    if (problem.empty() && spec.has_ffn() && !method.has_router)
      problem = too_little_for_router("", spec.router(), conversion_.router_rows());
    if (problem.empty() && spec.has_attention())
      problem = too_little_for_router("attention.", spec.attention().router(),
                                      conversion_.config.moe->attention->num_routed());
    if (!problem.empty()) throw_agreed<InvalidArgument>("convert: " + problem);
  }

  /// Why there are too few tokens for a router of so many rows, as the end of an error; empty if there are enough.
  std::string too_little_for_router(const std::string& section, const v1::RouterSpec& router, int64_t rows) const {
    const RouterInit& init = router_inits().at(router.init());
    const std::string problem = init.text_problem ? init.text_problem(rows, pass_->text().total_tokens) : "";
    return problem.empty() ? problem : section + problem;
  }

  /// Experts that are made for what another router would send them.
  void warn_of_router() const {
    const ConversionMethod& method = conversion_.method;
    const v1::ConvertSpec& spec = conversion_.spec;
    const std::string own = method.own_router_init ? method.own_router_init(conversion_.options) : "";
    if (own.empty() || own == spec.router().init()) return;
    log_shared_warning(
        concat("event=router_init_apart method=", spec.ffn().method(), " router_init=", spec.router().init(),
               " reason=\"the experts are made for the tokens that router.init ", own,
               " sends them, and others are sent by this one until it is trained\"; set router: {init: ", own, "}"));
  }

  /// Experts whose rows are nearly combinations of each other's are chosen together whatever the token.
  void warn_of_rows_alike() const {
    constexpr double kAlike = 5;
    std::string layers;
    for (const ConvertedLayer& layer : conversion_.layers) {
      if (!layer.planned || layer.planned->plan().router_condition.value_or(1) <= kAlike) continue;
      layers += concat(layers.empty() ? "" : ", ", layer.report["layer"].get<int64_t>(), " (",
                       layer.planned->plan().router_condition.value(), ")");
    }
    if (layers.empty()) return;
    log_shared_warning(
        concat("event=router_rows_alike condition_numbers=\"", layers,
               "\" reason=\"router rows of these layers hardly tell experts apart (condition number over ", kAlike,
               "): let ffn.prompts differ more, or name what an expert is not for as negative\""));
  }

  void finish_unit() { finish_units(1); }
  void finish_units(int64_t layers) {
    done_ += layers;
    request_.monitor.unit_done({.phase = "converting", .unit = "layer", .done = done_, .all = units_});
  }

  void set_widths(int64_t layer, const LayerWidths& widths) {
    conversion_.config.moe->set_expert_widths(layer, widths.experts);
    conversion_.config.moe->shared_widths[layer] = widths.shared;
  }

  json describe() const {
    const v1::ConvertSpec& spec = conversion_.spec;
    const MoeConfig& moe = *conversion_.config.moe;
    json report = {{"seed", request_.seed},
                   {"source", {{"path", request_.source.path().string()}, {"digest", moe.conversion["source_digest"]}}},
                   {"layers", json::array()}};
    if (spec.has_ffn()) {
      report.update({{"method", spec.ffn().method()},
                     {"experts", spec.ffn().experts()},
                     {"top_k", spec.ffn().top_k()},
                     {"router_init", spec.router().init()},
                     {"router_scaling", spec.router().scaling()},
                     {"scale_mode", spec.scale().mode()},
                     {"score", moe.score},
                     {"topk_norm", spec.router().topk_norm()}});
      if (moe.router != "linear") report["router_gate"] = moe.router;
      if (moe.router_noise != "none") report["router_noise"] = moe.router_noise;
      if (moe.shared_gate != "none")
        report.update({{"shared_gate", moe.shared_gate}, {"shared_gate_scale", moe.shared_gate_scale}});
      const MethodOptions init = router_init_options(spec.router(), spec.preset());
      if (!conversion_.method.has_router && !init.values().empty()) report["router_options"] = init.values();
    }
    for (const char* key : {"alignment", "reconstruction"}) {
      if (moe.conversion.contains(key)) report[key] = moe.conversion[key];
    }
    if (spec.has_attention()) {
      report["attention"] = moe.conversion["attention"];
      report["attention"].update({{"experts", moe.attention->num_experts},
                                  {"top_k", moe.attention->top_k},
                                  {"always_on", moe.attention->always_on},
                                  {"kv_mode", moe.attention->kv_mode},
                                  {"score", moe.attention->score},
                                  {"topk_norm", moe.attention->topk_norm}});
      const MethodOptions init = router_init_options(spec.attention().router(), spec.preset(), "attention.");
      if (!init.values().empty()) report["attention"]["router_options"] = init.values();
    }
    if (!conversion_.options.values().empty()) report["options"] = conversion_.options.values();
    for (const ConvertedLayer& layer : conversion_.layers) report["layers"].push_back(layer.report);
    for (const DenseSource& other : conversion_.others) {
      const std::string path = other.directory().path().string();
      report["others"].push_back({{"path", path}, {"digest", conversion_.digests.at(path)}});
    }
    if (pass_) report["calibration"] = describe_text();
    return report;
  }

  json describe_text() const {
    const CalibrationText& text = pass_->text();
    json report = {{"tokens", text.total_tokens}, {"digest", text.digest}, {"files", json::array()}};
    if (!text.chat_template.empty()) report["chat_template"] = text.chat_template;
    for (const v1::DataSource& source : conversion_.spec.calibration().data()) {
      json file = {
          {"path", source.path()}, {"xxh3_128", text.file_digests.at(source.path())}, {"weight", source.weight()}};
      if (source.max_documents() > 0) file["max_documents"] = source.max_documents();
      report["files"].push_back(std::move(file));
    }
    return report;
  }

  /// The written model, while it is still aside, against the dense one.
  json receipt() {
    pass_->end();
    std::optional<ModelDirectory> written;
    agree(world_, "open what was written", [&] { written.emplace(PendingDirectory::temporary_path(request_.output)); });
    const bool is_partition =
        makes_partition(conversion_.method, conversion_.spec.ffn()) && !conversion_.changes_neurons();
    json receipt = step0_receipt({.dense = request_.source,
                                  .converted = *written,
                                  .text = pass_->text(),
                                  .is_partition = is_partition,
                                  .progress = [this](int64_t) { finish_unit(); }},
                                 world_);
    for (const ConvertedLayer& layer : conversion_.layers) {
      if (!layer.report.contains("reconstruction")) continue;
      json row = layer.report["reconstruction"];
      row["layer"] = layer.report["layer"];
      receipt["reconstruction"].push_back(std::move(row));
    }
    return receipt;
  }

  const ConvertRequest& request_;
  Communicator& world_;
  Conversion conversion_;
  ConversionOutput output_;
  /// Layers are planned and written one after the other where the sizes of all tensors are known before.
  const bool plans_ahead_ = !has_known_widths(conversion_) || conversion_.spec.has_reconstruction();
  const bool aligns_ = alignment_of(conversion_.spec) != "none";
  std::optional<CalibrationPass> pass_;
  std::optional<PromptPass> prompts_;
  int64_t done_ = 0, units_ = 0;
};

}  // namespace

json convert_model(const ConvertRequest& request, Communicator& world) {
  const at::NoGradGuard no_grad;
  agree(world, "check conversion", [&] {
    check_request(request);
    warn_of_other_tokenizers(request);
  });
  // Every rank reads the models: one whose files differ would convert its share of another model.
  std::map<std::string, std::string> digests;
  agree(world, "digest of the source", [&] {
    digests[request.source.path().string()] = request.source.digest();
    for (const ModelDirectory* const other : request.others) digests[other->path().string()] = other->digest();
  });
  require_same_files(world, "before the conversion", digests);
  return Converter(request, std::move(digests), world).run();
}

}  // namespace moe
