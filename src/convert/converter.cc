#include "convert/converter.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "checkpoint/conversion_files.h"
#include "checkpoint/dtypes.h"
#include "checkpoint/model_writer.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "convert/calibration.h"
#include "convert/conversion_methods.h"
#include "convert/neuron_gather.h"
#include "convert/output_scale.h"
#include "convert/placed_specs.h"
#include "convert/request_check.h"
#include "convert/router_init.h"
#include "model/layer_weights.h"
#include "model/model_families.h"
#include "model/moe/moe_layer.h"

namespace moe {
namespace {

using nlohmann::json;

ModelConfig converted_config(const ConvertRequest& request, const std::string& source_digest) {
  ModelConfig config = request.source.config();
  const v1::ConvertSpec& spec = request.spec;
  MoeConfig moe;
  moe.base_model_type = config.model_type;
  moe.num_experts = spec.experts();
  moe.top_k = spec.top_k();
  moe.expert_widths.assign(config.num_layers, config.intermediate_size / spec.experts());
  moe.shared_widths.assign(config.num_layers, 0);
  moe.output_scale.assign(config.num_layers, 1);
  moe.topk_norm = spec.topk_norm();
  moe.conversion = {{"method", spec.method()},           {"seed", request.seed},
                    {"router_init", spec.router_init()}, {"router_scaling", spec.router_scaling()},
                    {"scale_mode", spec.scale_mode()},   {"source_digest", source_digest}};
  config.moe = moe;
  return config;
}

/// Refuses a method whose parts do not make the whole.
void check_split(const Split& split, const ConversionMethod& method, const SplitRequest& request) {
  std::vector<int> uses(request.width, 0);
  MOE_CHECK(static_cast<int64_t>(split.experts.size()) == request.experts, "the method made ", split.experts.size(),
            " experts");
  for (const std::vector<int32_t>& neurons : split.experts) {
    MOE_CHECK(static_cast<int64_t>(neurons.size()) == request.width / request.experts, "an expert has ", neurons.size(),
              " neurons");
    for (const int32_t neuron : neurons) {
      MOE_CHECK(neuron >= 0 && neuron < request.width, "neuron ", neuron, " of ", request.width);
      ++uses[neuron];
    }
  }
  MOE_CHECK(!method.is_partition || std::all_of(uses.begin(), uses.end(), [](int count) { return count == 1; }),
            "the method is said to partition and does not (layer ", request.layer, ")");
}

/// The work of one conversion; every rank has one, only rank 0's writes.
class Converter {
 public:
  Converter(const ConvertRequest& request, const std::string& source_digest, Communicator& world)
      : request_(request),
        world_(world),
        spec_(request.spec),
        config_(converted_config(request, source_digest)),
        names_(model_families().at(config_.model_type).names),
        dtype_(spec_.dtype() == "source" ? std::nullopt : scalar_type_of(spec_.dtype() == "float32" ? "F32" : "BF16")),
        method_(conversion_methods().at(spec_.method())),
        router_init_(router_inits().at(spec_.router_init())),
        specs_(placed_specs(config_)),
        source_specs_(placed_specs(request.source.config())) {}

  json run() {
    agree(world_, "prepare conversion", [&] {
      if (world_.rank() == 0) open_writer();
      if (!needs_calibration(spec_)) return;
      stream_.emplace(spec_, request_.seed, config_, CalibrationText{request_.tokenizer, request_.chat_template},
                      world_);
      stream_->embed(request_.source.tensor("model.embed_tokens.weight"));
    });
    if (stream_) {
      std::map<std::string, std::string> facts = stream_->file_digests();
      facts["files and tokenizer"] = stream_->data_digest();
      require_same_files(world_, "calibration text", facts);
      if (request_.on_data_read) request_.on_data_read(stream_->file_digests());
    }
    for (const TensorSpec& spec : specs_.before_layers) copy(spec.name);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      convert_layer(layer);
      if (request_.progress) request_.progress(layer + 1, config_.num_layers);
    }
    for (const TensorSpec& spec : specs_.after_layers) copy(spec.name);
    const json report = describe();
    agree(world_, "finish conversion", [&] {
      if (writer_) finish_writing(report);
    });
    return report;
  }

 private:
  at::ScalarType out_type(const std::string& source_tensor) const {
    if (dtype_) return *dtype_;
    return request_.source.tensor_type(source_tensor);
  }

  /// The tensor of the source that a tensor of the output is, or is cut from. The router, which is new, takes after the
  /// up projection.
  std::string source_of(const std::string& name) const {
    const size_t mlp = name.find("mlp.");
    if (mlp == std::string::npos) return name;
    const auto has = [&](const char* part) { return name.find(part, mlp) != std::string::npos; };
    const std::string& part = has("gate_proj")                         ? names_.gate
                              : has("down_proj") || has("output_bias") ? names_.down
                                                                       : names_.up;
    return name.substr(0, mlp) + part + (name.ends_with("bias") ? ".bias" : ".weight");
  }

  static std::string router_name(int64_t layer) { return concat("model.layers.", layer, ".mlp.router.weight"); }

  /// Type of a tensor of the output.
  at::ScalarType output_type(const TensorSpec& spec) const { return out_type(source_of(spec.name)); }

  void open_writer() {
    std::vector<SafetensorsWriter::Spec> specs;
    for (const TensorSpec& spec : logical_tensor_specs(config_))
      specs.push_back({spec.name, output_type(spec), spec.shape});
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

  /// Of the dense model, in float.
  Layer load_layer(int64_t layer) const {
    const ModelConfig& dense = request_.source.config();
    return layer_weights(dense, layer, [&](const TensorId& id) {
      return request_.source.tensor(tensor_name(dense, id)).to(at::kFloat).contiguous();
    });
  }

  void convert_layer(int64_t layer) {
    const SplitRequest split_request{config_.intermediate_size, spec_.experts(), layer, request_.seed};
    const Split split = method_.split(split_request);
    check_split(split, method_, split_request);
    Layer dense;
    agree(world_, concat("load layer ", layer), [&] {
      if (!stream_) return;
      dense = load_layer(layer);
      release_layer(layer);
      stream_->attend(dense);
    });
    if (stream_) {
      require_finite(layer, {{"the dense model's FFN inputs", stream_->features().local_TD},
                             {"the converted model's FFN inputs", stream_->ffn_inputs()}});
    }
    const RouterRequest router_request{
        spec_.experts(), config_.hidden_size,    layer,
        request_.seed,   spec_.router_scaling(), stream_ ? &stream_->features() : nullptr};
    // Calibrated as it will be read back.
    const at::Tensor router = router_init_.make(router_request, world_).to(output_type({router_name(layer), {}}));

    json layer_report = {{"layer", layer}};
    double scale = 1;
    if (stream_) {
      scale = calibrate_layer(layer, dense, split, router.to(at::kFloat), layer_report);
    } else {
      scale = closed_form_scale(spec_.scale_mode(), spec_.experts(), spec_.top_k(), spec_.output_scale());
    }
    dense = {};
    config_.moe->output_scale[layer] = scale;
    layer_report["output_scale"] = scale;
    layers_.push_back(layer_report);
    indices_.push_back(index_matrix(split));
    agree(world_, concat("write layer ", layer), [&] {
      if (writer_) write_layer(layer, split, router);
      release_layer(layer);
    });
  }

  struct Named {
    const char* what;
    const at::Tensor& values;
  };

  /// Throws, on every rank, if a value on the calibration text is NaN or infinite: a scale or a router made from it
  /// would be noise. (Weights are known to be finite: reading them checks it.)
  void require_finite(int64_t layer, std::initializer_list<Named> checked) {
    std::vector<at::Tensor> counts;
    for (const Named& named : checked)
      counts.push_back(
          at::stack({named.values.isfinite().logical_not().sum(), at::scalar_tensor(named.values.numel(), at::kLong)}));
    at::Tensor all = at::stack(counts);
    world_.all_reduce_sum(all, "values that are not finite");
    const int64_t* count = all.const_data_ptr<int64_t>();
    for (const Named& named : checked) {
      const int64_t bad = *count++, values = *count++;
      if (bad == 0) continue;
      throw_agreed<InvalidArgument>(
          concat("convert: layer ", layer, ": ", bad, " of ", values, " values of ", named.what,
                 " on the calibration text are NaN or infinite, so nothing can be fitted to them. The weights of ",
                 request_.source.path().string(),
                 " are finite: its activations overflow float32, as those of a damaged or diverged model do; "
                 "`moe-worker score` tells its loss on this text"));
    }
  }

  /// Runs the new layer on the calibration tokens: scale, relative error, load.
  double calibrate_layer(int64_t layer, const Layer& dense, const Split& split, const at::Tensor& router,
                         json& layer_report) {
    // The output bias is the same in both and not scaled: the fit is of what it is added to.
    const auto& dense_ffn = std::get<FeedForwardWeights>(dense.ffn);
    FeedForwardWeights ffn = dense_ffn;
    ffn.down_bias = at::Tensor();
    MoeWeights weights = stack_experts(ffn, split);
    weights.router = router;
    const MoeOptions options{spec_.experts(), spec_.top_k(), 1.0, parse_topk_norm(spec_.topk_norm()), config_.is_gated};
    LocalDispatcher dispatcher;
    const at::Tensor& x = stream_->ffn_inputs();
    const MoeOutput out = moe_layer(weights, options, x, dispatcher, layer);
    const at::Tensor dense_output = feed_forward(ffn, x);
    require_finite(
        layer, {{"the router", router}, {"the dense FFN's outputs", dense_output}, {"the experts' outputs", out.y_TD}});
    const OutputFit fit = fit_output(dense_output, out.y_TD, world_);
    const double scale = spec_.scale_mode() == "least_squares" ? fit.least_squares()
                                                               : closed_form_scale(spec_.scale_mode(), spec_.experts(),
                                                                                   spec_.top_k(), spec_.output_scale());
    const double error = fit.relative_error(scale);
    if (!std::isfinite(scale) || !std::isfinite(error)) {
      throw_agreed<InvalidArgument>(concat("convert: layer ", layer, ": the output scale is ", scale,
                                           " with a relative error of ", error,
                                           " (sums over the calibration text: y y ", fit.y_y, ", y s ", fit.y_s,
                                           ", s s ", fit.s_s, "): the activations are too large to fit"));
    }
    at::Tensor load = out.stats.tokens_per_expert_E.clone();
    world_.all_reduce_sum(load, "calibration load");
    layer_report["relative_ffn_error"] = error;
    layer_report["router_logit_deviation"] = router_logit_deviation(router, stream_->features(), world_);
    layer_report["expert_load"] =
        std::vector<int64_t>(load.const_data_ptr<int64_t>(), load.const_data_ptr<int64_t>() + load.numel());
    at::Tensor output = out.y_TD * scale;
    if (dense_ffn.down_bias.defined()) output.add_(dense_ffn.down_bias);
    stream_->advance(output);
    return scale;
  }

  static at::Tensor index_matrix(const Split& split) {
    std::vector<at::Tensor> rows;
    for (const std::vector<int32_t>& neurons : split.experts) rows.push_back(at::tensor(neurons, at::kInt));
    return at::stack(rows);
  }

  /// The layer's tensors in the order of the specs.
  void write_layer(int64_t layer, const Split& split, const at::Tensor& router) {
    std::vector<at::Tensor> downs = down_of_experts(layer, split);
    std::map<std::string, at::Tensor> cut;  // what experts are cut from, read (and checked) once
    for (const TensorSpec& spec : specs_.layers[layer]) {
      const at::ScalarType type = output_type(spec);
      const std::string source = source_of(spec.name);
      constexpr std::string_view kExperts = ".mlp.experts.";
      const size_t experts_at = spec.name.find(kExperts);
      if (spec.name == router_name(layer)) {
        write(spec.name, router, type);
      } else if (experts_at == std::string::npos) {
        write(spec.name, request_.source.tensor(source), type);
      } else {
        const size_t expert = std::stoul(spec.name.substr(experts_at + kExperts.size()));
        if (spec.name.ends_with("down_proj.weight")) {
          write(spec.name, std::exchange(downs.at(expert), {}), type);
          continue;
        }
        if (!cut.contains(source)) cut[source] = request_.source.tensor(source);
        at::Tensor rows = at::empty(spec.shape, cut[source].options());
        gather_rows(cut[source], split.experts.at(expert), rows);
        write(spec.name, rows, type);
      }
    }
  }

  std::vector<at::Tensor> down_of_experts(int64_t layer, const Split& split) const {
    const at::Tensor down = request_.source.tensor(concat("model.layers.", layer, ".", names_.down, ".weight"));
    std::vector<at::Tensor> downs;
    for (const std::vector<int32_t>& neurons : split.experts) {
      downs.push_back(at::empty({down.size(0), static_cast<int64_t>(neurons.size())}, down.options()));
    }
    gather_columns(down, split, downs);
    return downs;
  }

  /// Every rank read the layer: none keeps its pages.
  void release_layer(int64_t layer) const {
    for (const TensorSpec& spec : source_specs_.layers[layer]) request_.source.release(spec.name);
  }

  json describe() const {
    json report = {
        {"method", spec_.method()},
        {"experts", spec_.experts()},
        {"top_k", spec_.top_k()},
        {"seed", request_.seed},
        {"router_init", spec_.router_init()},
        {"router_scaling", spec_.router_scaling()},
        {"scale_mode", spec_.scale_mode()},
        {"topk_norm", spec_.topk_norm()},
        {"source", {{"path", request_.source.path().string()}, {"digest", config_.moe->conversion["source_digest"]}}},
        {"layers", layers_}};
    if (stream_) {
      report["calibration"] = {{"tokens", stream_->features().total}, {"digest", stream_->data_digest()}};
      if (!stream_->chat_template().empty()) report["calibration"]["chat_template"] = stream_->chat_template();
    }
    return report;
  }

  void finish_writing(const json& report) {
    std::vector<SafetensorsWriter::Spec> specs;
    const auto name = [](size_t layer) { return conversion_indices_name(static_cast<int64_t>(layer)); };
    for (size_t layer = 0; layer < indices_.size(); ++layer)
      specs.push_back({name(layer), at::kInt, indices_[layer].sizes().vec()});
    SafetensorsWriter artefact(writer_->folder() / kConversionIndices, specs);
    for (size_t layer = 0; layer < indices_.size(); ++layer) artefact.write(name(layer), indices_[layer]);
    artefact.finish();
    write_file_atomically(writer_->folder() / kConversionReport, report.dump(1) + "\n");
    writer_->finish(config_);
  }

  const ConvertRequest& request_;
  Communicator& world_;
  const v1::ConvertSpec& spec_;
  ModelConfig config_;
  const TensorNames& names_;
  std::optional<at::ScalarType> dtype_;
  const ConversionMethod& method_;
  const RouterInit& router_init_;
  const PlacedSpecs specs_, source_specs_;
  std::optional<CalibrationStream> stream_;
  std::optional<ModelDirectoryWriter> writer_;
  std::vector<json> layers_;
  std::vector<at::Tensor> indices_;
};

}  // namespace

json convert_model(const ConvertRequest& request, Communicator& world) {
  const at::NoGradGuard no_grad;
  agree(world, "check conversion", [&] { check_request(request); });
  // Every rank reads the source: one whose files differ would convert its share of another model.
  std::string digest;
  agree(world, "digest of the source", [&] { digest = request.source.digest(); });
  require_same_files(world, "before the conversion", {{request.source.path().string(), digest}});
  return Converter(request, digest, world).run();
}

}  // namespace moe
