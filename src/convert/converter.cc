#include "convert/converter.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "checkpoint/conversion_files.h"
#include "checkpoint/dtypes.h"
#include "checkpoint/model_writer.h"
#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/log.h"
#include "convert/calibration_pass.h"
#include "convert/dense_source.h"
#include "convert/layer_fit.h"
#include "convert/output_scale.h"
#include "convert/placed_specs.h"
#include "convert/planned_layer.h"
#include "convert/request_check.h"
#include "convert/router_init.h"
#include "convert/step0_receipt.h"
#include "model/layer.h"
#include "model/moe/moe_layer.h"
#include "model/tensor_id.h"

namespace moe {
namespace {

using nlohmann::json;

ModelConfig converted_config(const ConvertRequest& request, const std::string& source_digest) {
  ModelConfig config = request.source.config();
  const v1::ConvertSpec& spec = request.spec;
  MoeConfig moe;
  moe.base_model_type = config.model_type;
  moe.num_experts = spec.ffn().experts();
  moe.top_k = spec.ffn().top_k();
  moe.expert_widths.assign(config.num_layers, 0);
  moe.shared_widths.assign(config.num_layers, 0);
  moe.output_scale.assign(config.num_layers, 1);
  moe.score = router_score(spec);
  moe.topk_norm = spec.router().topk_norm();
  moe.conversion = {{"method", spec.ffn().method()},       {"seed", request.seed},
                    {"router_init", spec.router().init()}, {"router_scaling", spec.router().scaling()},
                    {"scale_mode", spec.scale().mode()},   {"source_digest", source_digest}};
  config.moe = moe;
  return config;
}

bool is_even(const std::vector<int64_t>& widths) {
  return std::all_of(widths.begin(), widths.end(), [&](int64_t width) { return width == widths.front(); });
}

/// The work of one conversion; every rank has one, only rank 0's writes.
class Converter {
 public:
  Converter(const ConvertRequest& request, std::map<std::string, std::string> digests, Communicator& world)
      : request_(request),
        world_(world),
        spec_(request.spec),
        digests_(std::move(digests)),
        config_(converted_config(request, digests_.at(request.source.path().string()))),
        dtype_(spec_.dtype() == "source" ? std::nullopt : scalar_type_of(spec_.dtype() == "float32" ? "F32" : "BF16")),
        method_(request.methods.at(spec_.ffn().method())),
        options_(method_.options, spec_),
        router_init_(router_inits().at(spec_.router().init())),
        source_(request.source),
        is_mixture_(mixtures_of(spec_.ffn(), config_)) {
    for (const ModelDirectory* const other : request.others) others_.emplace_back(*other);
  }

  json run() {
    warn_of_router();
    const int64_t layers = config_.num_layers;
    // Layers are planned and written one after the other where the sizes of all tensors are known before.
    const bool plans_ahead = !method_.widths;
    units_ = layers * (1 + (plans_ahead ? 1 : 0) + (method_.needs.gradients ? 1 : 0) +
                       (needs_calibration(method_, spec_) ? 1 : 0));
    agree(world_, "prepare conversion", [&] {
      if (world_.rank() == 0 && plans_ahead) PendingDirectory::require_absent(request_.output);
      if (!plans_ahead) {
        for (int64_t layer = 0; layer < layers; ++layer) {
          if (is_mixture_[layer]) set_widths(layer, method_.widths(source_.config(), spec_));
        }
        open_writer();
      }
      if (!needs_calibration(method_, spec_)) return;
      pass_.emplace(spec_, request_.seed, source_.config(), request_.text, method_.needs, world_);
      pass_->embed(source_.embedding());
      source_.release_ends();
    });
    if (pass_) {
      std::map<std::string, std::string> facts = pass_->text().file_digests;
      facts["files and tokenizer"] = pass_->text().data_digest;
      require_same_files(world_, "calibration text", facts);
      request_.monitor.data_read(pass_->text().file_digests);
      require_enough_text();
    }
    if (method_.needs.gradients) {
      pass_->measure_importance(
          source_, method_.group_tokens, options_, [this](int64_t) { finish_unit(); }, world_);
    }
    for (int64_t layer = 0; plans_ahead && layer < layers; ++layer) {
      plan_layer(layer);
      if (is_mixture_[layer]) set_widths(layer, layers_[layer].planned->widths());
      finish_unit();
    }
    if (plans_ahead) agree(world_, "open the output", [&] { open_writer(); });
    for (const TensorSpec& spec : specs_.before_layers) copy(spec.name);
    for (int64_t layer = 0; layer < layers; ++layer) {
      if (!plans_ahead) plan_layer(layer);
      agree(world_, concat("write layer ", layer), [&] {
        if (writer_) write_layer(layer);
        release_layer(layer);
      });
      finish_unit();
    }
    for (const TensorSpec& spec : specs_.after_layers) copy(spec.name);
    json report = describe();
    agree(world_, "finish the weights", [&] {
      if (writer_) writer_->write_config(config_);
    });
    if (pass_) report["receipt"] = receipt();
    agree(world_, "finish conversion", [&] {
      if (writer_) finish_writing(report);
    });
    return report;
  }

 private:
  /// A layer between planning and writing, and what is kept of it.
  struct ConvertedLayer {
    std::optional<PlannedLayer> planned;  ///< absent: the layer stays dense
    at::Tensor router;                    ///< as it will be written
    json report;
  };

  /// Before any work on it.
  void require_enough_text() {
    at::Tensor documents = at::full({1}, static_cast<int64_t>(pass_->text().cu_seqlens.size()) - 1, at::kLong);
    world_.all_reduce_sum(documents, "calibration documents");
    const TextSize size{.documents = documents.item<int64_t>(), .tokens = pass_->text().total_tokens};
    std::string problem = method_.text_problem ? method_.text_problem(spec_.ffn(), options_, size) : "";
    if (problem.empty() && !method_.has_router && router_init_.text_problem)
      problem = router_init_.text_problem(router_rows(), size.tokens);
    if (!problem.empty()) throw_agreed<InvalidArgument>("convert: " + problem);
  }

  /// Experts that are made for what another router would send them.
  void warn_of_router() const {
    const std::string own = method_.own_router_init ? method_.own_router_init(options_) : "";
    if (own.empty() || own == spec_.router().init()) return;
    log_shared_warning(
        concat("event=router_init_apart method=", spec_.ffn().method(), " router_init=", spec_.router().init(),
               " reason=\"the experts are made for the tokens that router.init ", own,
               " sends them, and others are sent by this one until it is trained\"; set router: {init: ", own, "}"));
  }

  void finish_unit() {
    ++done_;
    request_.monitor.unit_done({.phase = "converting", .unit = "layer", .done = done_, .all = units_});
  }

  void set_widths(int64_t layer, const LayerWidths& widths) {
    config_.moe->set_expert_widths(layer, widths.experts);
    config_.moe->shared_widths[layer] = widths.shared;
  }

  at::ScalarType out_type(const std::string& source_tensor) const {
    if (dtype_) return *dtype_;
    return request_.source.tensor_type(source_tensor);
  }

  /// The tensor of the source that a tensor of the output is, or is cut from. The router, which is new, takes after the
  /// up projection.
  std::string source_of(const TensorId& id) const {
    TensorId source = id;
    source.expert = kNoExpert;
    if (id.part == TensorPart::kRouter || id.part == TensorPart::kRouterGain) source.part = TensorPart::kUp;
    if (id.part == TensorPart::kOutputBias) source.part = TensorPart::kDown;
    return tensor_name(source_.config(), source);
  }

  /// Type of a tensor of the output.
  at::ScalarType output_type(const TensorId& id) const { return out_type(source_of(id)); }

  /// All widths are known.
  void open_writer() {
    specs_ = placed_specs(config_);
    if (world_.rank() != 0) return;
    std::vector<SafetensorsWriter::Spec> specs;
    for (const TensorSpec& spec : logical_tensor_specs(config_))
      specs.push_back({spec.name, output_type(spec.id), spec.shape});
    writer_.emplace(request_.output, request_.source.path(), specs);
  }

  void write(const std::string& name, const at::Tensor& tensor, at::ScalarType type) {
    if (writer_) writer_->write(name, tensor.to(type));
  }

  void copy(const std::string& name) {
    agree(world_, "copy " + name, [&] {
      if (writer_) write(name, request_.source.tensor(name), out_type(name));
      request_.source.release(name);
    });
  }

  /// What the method makes of a layer; with text, also its calibration, so that the next layer sees this one.
  void plan_layer(int64_t layer) {
    if (!is_mixture_[layer]) return pass_layer(layer);
    Layer dense;
    agree(world_, concat("load layer ", layer), [&] {
      if (!pass_ && !method_.needs.weights) return;
      dense = source_.layer(layer);
      release_layer(layer);
      if (pass_) pass_->attend(dense);
    });
    if (pass_) {
      const LayerFeatures& features = pass_->features();
      require_finite(fit_request(layer, dense),
                     {{"the dense model's FFN inputs", features.ffn_inputs.local_TD},
                      {"the converted model's FFN inputs", features.converted_ffn_inputs_TD}},
                     world_);
    }
    const std::optional<Importance> importance = pass_ ? pass_->take_importance(layer) : std::nullopt;
    const LayerInputs inputs{.config = source_.config(),
                             .spec = spec_,
                             .layer = layer,
                             .seed = request_.seed,
                             .dense = pass_ || method_.needs.weights ? &dense : nullptr,
                             .features = pass_ ? &pass_->features() : nullptr,
                             .importance = importance ? &*importance : nullptr,
                             .options = options_};
    LayerPlan plan = method_.plan(inputs, world_);
    check_plan(plan, {.layer = layer,
                      .experts = spec_.ffn().experts(),
                      .neurons = config_.intermediate_size,
                      .hidden_size = config_.hidden_size,
                      .models = 1 + static_cast<int64_t>(others_.size()),
                      .has_router = method_.has_router,
                      .is_partition = makes_partition(method_, spec_.ffn())});
    PlannedLayer planned(std::move(plan), source_.config(), layer);
    MOE_CHECK(!method_.widths || planned.widths() == method_.widths(source_.config(), spec_),
              "the method said other widths than it planned (layer ", layer, ")");
    // Calibrated as it will be read back.
    const at::Tensor router = (method_.has_router ? planned.plan().router_ED : initial_router(layer, inputs.importance))
                                  .to(output_type({TensorPart::kRouter, layer}));

    json layer_report = {{"layer", layer}};
    add_widths(planned.widths(), layer_report);
    double scale = 1;
    if (pass_) {
      MoeWeights weights;
      agree(world_, concat("make the experts of layer ", layer),
            [&] { weights = planned.mixture(float_models(layer, std::get<FeedForwardWeights>(dense.ffn))); });
      weights.router = router.to(at::kFloat);
      const LayerFit fit = fit_layer(fit_request(layer, dense), std::move(weights), world_);
      scale = fit.scale;
      layer_report["relative_ffn_error"] = fit.relative_error;
      layer_report["router_logit_deviation"] = fit.router_logit_deviation;
      layer_report["expert_load"] = fit.expert_load;
      pass_->advance(fit.output_TD);
    } else {
      scale =
          closed_form_scale(spec_.scale().mode(), spec_.ffn().experts(), spec_.ffn().top_k(), spec_.scale().value());
    }
    config_.moe->output_scale[layer] = scale;
    layer_report["output_scale"] = scale;
    layers_.push_back({std::move(planned), router, std::move(layer_report)});
  }

  /// A layer that stays dense: the text goes through it as it is, to the mixtures behind it.
  void pass_layer(int64_t layer) {
    const bool is_last = std::find(is_mixture_.begin() + layer, is_mixture_.end(), true) == is_mixture_.end();
    agree(world_, concat("load layer ", layer), [&] {
      if (!pass_ || is_last) return;
      const Layer dense = source_.layer(layer);
      release_layer(layer);
      pass_->attend(dense);
      pass_->advance_unchanged(dense);
    });
    layers_.push_back({std::nullopt, {}, json{{"layer", layer}, {"dense", true}}});
  }

  int64_t router_group() const { return method_.router_group ? method_.router_group(options_) : 1; }
  /// That router.init makes.
  int64_t router_rows() const { return spec_.ffn().experts() / router_group(); }

  /// What router.init makes. [experts, hidden]
  at::Tensor initial_router(int64_t layer, const Importance* importance) {
    const int64_t group = router_group();
    RouterRequest router_request{.experts = router_rows(),
                                 .hidden_size = config_.hidden_size,
                                 .layer = layer,
                                 .seed = request_.seed,
                                 .scaling = spec_.router().scaling()};
    if (pass_) router_request.features = &pass_->features().ffn_inputs;
    // Those by which a method grouped the tokens are not looked for again.
    if (importance != nullptr && importance->group_rows_GD.defined() &&
        importance->group_rows_GD.size(0) == router_request.experts) {
      router_request.centroids_ED = importance->group_rows_GD;
    }
    const at::Tensor rows = router_init_.make(router_request, world_);
    return group == 1 ? rows : rows.repeat_interleave(group, 0);
  }

  FitRequest fit_request(int64_t layer, const Layer& dense) const {
    return {source_.config(), spec_, request_.source.path().string(), layer, std::get<FeedForwardWeights>(dense.ffn),
            pass_->features()};
  }

  /// Where they are not those that the number of experts says.
  static void add_widths(const LayerWidths& widths, json& layer_report) {
    if (!is_even(widths.experts)) layer_report["expert_widths"] = widths.experts;
    if (widths.shared > 0) layer_report["shared_width"] = widths.shared;
  }

  /// Tensors of the models in float; those of the layer at hand as they were loaded.
  PlannedLayer::Models float_models(int64_t layer, const FeedForwardWeights& ffn) const {
    const auto name = [&](TensorPart part, bool is_bias = false) {
      return tensor_name(source_.config(), {part, layer, kNoExpert, is_bias});
    };
    std::map<std::string, at::Tensor> loaded{{name(TensorPart::kUp), ffn.up},
                                             {name(TensorPart::kUp, true), ffn.up_bias},
                                             {name(TensorPart::kDown), ffn.down}};
    if (ffn.gate.defined()) {
      loaded[name(TensorPart::kGate)] = ffn.gate;
      loaded[name(TensorPart::kGate, true)] = ffn.gate_bias;
    }
    return [this, loaded = std::move(loaded)](int64_t model, const std::string& wanted) {
      return model == 0 ? loaded.at(wanted) : others_.at(model - 1).tensor(wanted);
    };
  }

  /// Tensors of the models as they are stored, each read (and checked) once while the function lives.
  PlannedLayer::Models stored_models() const {
    const auto read = std::make_shared<std::map<std::pair<int64_t, std::string>, at::Tensor>>();
    return [this, read](int64_t model, const std::string& name) {
      const auto [place, is_new] = read->try_emplace({model, name});
      if (is_new) {
        const ModelDirectory& directory = model == 0 ? request_.source : others_.at(model - 1).directory();
        place->second = directory.tensor(name).contiguous();
      }
      return place->second;
    };
  }

  /// The layer's tensors in the order of the specs.
  void write_layer(int64_t layer) {
    if (!is_mixture_[layer]) {
      for (const TensorSpec& spec : specs_.layers[layer])
        write(spec.name, request_.source.tensor(spec.name), output_type(spec.id));
      return;
    }
    const PlannedLayer& planned = *layers_[layer].planned;
    const PlannedLayer::Models models = stored_models();
    std::vector<at::Tensor> downs = planned.routed_downs(output_type({TensorPart::kDown, layer, 0}), models);
    for (const TensorSpec& spec : specs_.layers[layer]) {
      const at::ScalarType type = output_type(spec.id);
      if (spec.id.is_routed() && spec.id.part == TensorPart::kDown) {
        write(spec.name, std::exchange(downs.at(spec.id.expert), {}), type);
      } else if (planned.makes(spec.name)) {
        write(spec.name, planned.tensor(spec.name, type, models), type);
      } else if (spec.id.part == TensorPart::kRouter) {
        write(spec.name, layers_[layer].router, type);
      } else if (spec.id.part == TensorPart::kRouterGain) {
        write(spec.name, at::zeros(spec.shape), type);
      } else {
        write(spec.name, request_.source.tensor(source_of(spec.id)), type);
      }
    }
    for (const DenseSource& other : others_) other.release_layer(layer);
  }

  /// Every rank read the layer: none keeps its pages.
  void release_layer(int64_t layer) const { source_.release_layer(layer); }

  json describe() const {
    json report = {
        {"method", spec_.ffn().method()},
        {"experts", spec_.ffn().experts()},
        {"top_k", spec_.ffn().top_k()},
        {"seed", request_.seed},
        {"router_init", spec_.router().init()},
        {"router_scaling", spec_.router().scaling()},
        {"scale_mode", spec_.scale().mode()},
        {"score", config_.moe->score},
        {"topk_norm", spec_.router().topk_norm()},
        {"source", {{"path", request_.source.path().string()}, {"digest", config_.moe->conversion["source_digest"]}}},
        {"layers", json::array()}};
    if (!options_.values().empty()) report["options"] = options_.values();
    for (const ConvertedLayer& layer : layers_) report["layers"].push_back(layer.report);
    for (const DenseSource& other : others_) {
      const std::string path = other.directory().path().string();
      report["others"].push_back({{"path", path}, {"digest", digests_.at(path)}});
    }
    if (pass_) {
      const CalibrationText& text = pass_->text();
      report["calibration"] = {{"tokens", text.total_tokens}, {"digest", text.data_digest}, {"files", json::array()}};
      if (!text.chat_template.empty()) report["calibration"]["chat_template"] = text.chat_template;
      for (const v1::DataSource& source : spec_.calibration().data()) {
        json file = {
            {"path", source.path()}, {"xxh3_128", text.file_digests.at(source.path())}, {"weight", source.weight()}};
        if (source.max_documents() > 0) file["max_documents"] = source.max_documents();
        report["calibration"]["files"].push_back(std::move(file));
      }
    }
    return report;
  }

  /// The written model, while it is still aside, against the dense one.
  json receipt() {
    pass_->end();
    std::optional<ModelDirectory> written;
    agree(world_, "open what was written", [&] { written.emplace(PendingDirectory::temporary_path(request_.output)); });
    return step0_receipt({.dense = request_.source,
                          .converted = *written,
                          .text = pass_->text(),
                          .is_partition = makes_partition(method_, spec_.ffn()),
                          .progress = [this](int64_t) { finish_unit(); }},
                         world_);
  }

  /// The neurons of layers whose experts are copies of neurons.
  void write_indices() {
    std::vector<std::pair<std::string, at::Tensor>> indices;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto layer = static_cast<int64_t>(i);
      if (!is_mixture_[layer]) continue;
      const PlannedLayer& planned = *layers_[i].planned;
      if (at::Tensor neurons = planned.expert_neurons(); neurons.defined())
        indices.emplace_back(conversion_indices_name(layer), neurons);
      if (at::Tensor neurons = planned.shared_neurons(); neurons.defined())
        indices.emplace_back(shared_indices_name(layer), neurons);
    }
    if (indices.empty()) return;
    std::vector<SafetensorsWriter::Spec> specs;
    for (const auto& [name, neurons] : indices) specs.push_back({name, at::kInt, neurons.sizes().vec()});
    SafetensorsWriter artefact(writer_->folder() / kConversionIndices, specs);
    for (const auto& [name, neurons] : indices) artefact.write(name, neurons);
    artefact.finish();
  }

  void finish_writing(const json& report) {
    write_indices();
    write_file_atomically(writer_->folder() / kConversionReport, report.dump(1) + "\n");
    writer_->commit();
  }

  const ConvertRequest& request_;
  Communicator& world_;
  const v1::ConvertSpec& spec_;
  const std::map<std::string, std::string> digests_;  ///< of the models, by path
  ModelConfig config_;
  std::optional<at::ScalarType> dtype_;
  const ConversionMethod& method_;
  const MethodOptions options_;
  const RouterInit& router_init_;
  const DenseSource source_;
  const std::vector<bool> is_mixture_;  ///< [layers]
  std::deque<DenseSource> others_;
  PlacedSpecs specs_;  ///< of the output, once the widths are known
  std::optional<CalibrationPass> pass_;
  std::optional<ModelDirectoryWriter> writer_;
  std::vector<ConvertedLayer> layers_;
  int64_t done_ = 0, units_ = 0;
};

}  // namespace

json convert_model(const ConvertRequest& request, Communicator& world) {
  const at::NoGradGuard no_grad;
  agree(world, "check conversion", [&] { check_request(request); });
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
