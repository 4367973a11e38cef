#include "convert/importance.h"

#include <optional>
#include <string>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/neuron_scores.h"
#include "convert/row_sums.h"
#include "model/ops.h"
#include "model/rope.h"

namespace moe {
namespace {

/// One over the tokens with a target of each token's document. [t] double
at::Tensor document_weights(const at::Tensor& labels_t, const std::vector<int64_t>& cu_seqlens) {
  at::Tensor weights_t = at::zeros({labels_t.size(0)}, at::kDouble);
  for (size_t document = 0; document + 1 < cu_seqlens.size(); ++document) {
    const int64_t begin = cu_seqlens[document], end = cu_seqlens[document + 1];
    const int64_t targets = labels_t.slice(0, begin, end).ge(0).sum().item<int64_t>();
    if (targets > 0) weights_t.slice(0, begin, end).fill_(1 / static_cast<double>(targets));
  }
  return weights_t;
}

/// An ImportanceMeasure's parts, by their names as options.
constexpr std::pair<const char*, std::string ImportanceMeasure::*> kSettings[] = {
    {"loss", &ImportanceMeasure::loss},
    {"worth", &ImportanceMeasure::worth},
    {"kernel", &ImportanceMeasure::kernel},
    {"accumulate", &ImportanceMeasure::accumulate}};

/// In double.
at::Tensor by_kernel(const at::Tensor& products, const std::string& kernel) {
  if (kernel == "plain") return products;
  return kernel == "l2_norm" ? products.square() : products.abs();
}

/// The whole pass. T tokens of this rank, t of one row of text.
class ImportancePass {
 public:
  ImportancePass(const DenseSource& model, const CalibrationText& text, const ImportanceRequest& request,
                 Communicator& world)
      : model_(model),
        config_(model.config()),
        text_(text),
        request_(request),
        world_(world),
        rope_(RopeTable(config_, model.dtype()).angles(text.cu_seqlens)) {}

  std::vector<Importance> run() {
    forward();
    gradient_TD_ = loss_gradient();
    std::vector<Importance> all(config_.num_layers);
    for (int64_t layer = config_.num_layers - 1; layer >= 0; --layer) {
      all[layer] = backward(layer);
      if (request_.progress) request_.progress(config_.num_layers - layer);
    }
    return all;
  }

 private:
  Layer load(int64_t layer) {
    Layer dense;
    agree(world_, concat("load layer ", layer, " for gradients"), [&] {
      dense = model_.layer(layer);
      model_.release_layer(layer);
    });
    return dense;
  }

  void forward() {
    agree(world_, "embed calibration text", [&] {
      hidden_TD_.push_back(model_.embedding().index_select(0, text_.tokens_T).to(model_.dtype()));
      model_.release_ends();
    });
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      const Layer dense = load(layer);
      hidden_TD_.push_back(run_layer(dense, hidden_TD_.back(), {config_, rope_, text_.cu_seqlens, dispatcher_}).x_TD);
    }
  }

  at::Tensor row_of(const at::Tensor& all_TD, int64_t row) const {
    return all_TD.slice(0, text_.row_begin[row], text_.row_begin[row + 1]);
  }

  /// Of the summed loss, with respect to what the last layer leaves. [T, D]
  at::Tensor loss_gradient() {
    DenseSource::Head head;
    agree(world_, "load the head for gradients", [&] {
      head = model_.head();
      model_.release_ends();
    });
    at::Tensor gradient = at::empty_like(hidden_TD_.back());
    for (int64_t row = 0; row < text_.rows(); ++row) {
      const at::AutoGradMode grad(true);
      const at::Tensor x = row_of(hidden_TD_.back(), row).detach().requires_grad_();
      const at::Tensor losses = ops::linear_cross_entropy(normalize(config_, head.norm, x), head.weight_VD,
                                                          row_of(text_.labels_T, row), head.bias_V);
      (request_.measure.loss == "mean"
           ? losses * document_weights(row_of(text_.labels_T, row), text_.row_cu_seqlens(row)).to(losses.scalar_type())
           : losses)
          .sum()
          .backward();
      row_of(gradient, row).copy_(x.grad());
    }
    return gradient;
  }

  /// Moves the gradient before the layer.
  Importance backward(int64_t layer) {
    const Layer dense = load(layer);
    const TokenGroups groups = group(layer, dense);
    const ImportanceMeasure& measure = request_.measure;
    const bool is_of_sums = measure.accumulate == "total";
    const auto of_tokens = [&](const at::Tensor& worth) {
      return is_of_sums ? worth : by_kernel(worth, measure.kernel);
    };
    const auto of_sums = [&](const at::Tensor& sum) { return is_of_sums ? by_kernel(sum, measure.kernel) : sum; };
    RowSums sums, of_even_rows;
    for (int64_t row = 0; row < text_.rows(); ++row) {
      const at::AutoGradMode grad(true);
      const RopeAngles rope{row_of(rope_.cos, row), row_of(rope_.sin, row)};
      const at::Tensor x = row_of(hidden_TD_[layer], row).detach().requires_grad_();
      const std::vector<int64_t> cu_seqlens = text_.row_cu_seqlens(row);
      LayerContext context{config_, rope, cu_seqlens, dispatcher_};
      at::Tensor h;
      context.options.observer = [&h](int64_t /*layer*/, LayerPoint point, const at::Tensor& values) {
        if (point != LayerPoint::kFfnActivations) return;
        h = values;
        h.retain_grad();
      };
      run_layer(dense, x, context).x_TD.backward(row_of(gradient_TD_, row));
      row_of(gradient_TD_, row).copy_(x.grad());
      const at::Tensor gradient_tF = h.grad().to(at::kDouble),
                       worth_tF = of_tokens(measure.worth == "gradient" ? gradient_tF
                                                                        : h.detach().to(at::kDouble) * gradient_tF);
      at::Tensor by_group = at::zeros({groups.count, config_.intermediate_size}, at::kDouble);
      by_group.index_add_(0, row_of(groups.ids_T, row), worth_tF);
      if (const int64_t place = text_.first_row + row; place % 2 == 0) of_even_rows.add(place / 2, by_group);
      sums.add(text_.first_row + row, std::move(by_group));
    }
    if (!request_.group_tokens || groups_of_all_layers_) hidden_TD_[layer + 1] = at::Tensor();
    const std::vector<int64_t> shape{groups.count, config_.intermediate_size};
    const at::Tensor all_GF = sums.total(shape, world_, concat("importance of layer ", layer));
    Importance importance{.scores_GF = of_sums(all_GF),
                          .tokens_G = at::bincount(groups.ids_T, /*weights=*/{}, groups.count),
                          .group_rows_GD = groups.rows_GD};
    world_.all_reduce_sum(importance.tokens_G, "tokens of importance groups");
    const at::Tensor even_GF = of_even_rows.total(shape, world_, "importance on half the text");
    importance.halves_correlation = rank_correlation(of_sums(even_GF), of_sums(all_GF - even_GF));
    if (!importance.scores_GF.isfinite().all().item<bool>()) {
      throw_agreed<InvalidArgument>(concat("convert: layer ", layer,
                                           ": the importance of neurons on the calibration text is "
                                           "NaN or infinite: the activations or gradients of ",
                                           model_.directory().path().string(),
                                           " overflow, as those of a damaged or diverged model do"));
    }
    return importance;
  }

  TokenGroups group(int64_t layer, const Layer& dense) {
    if (!request_.group_tokens) return {1, at::zeros({text_.tokens_T.size(0)}, at::kLong)};
    if (groups_of_all_layers_) return *groups_of_all_layers_;
    const AttendedLayer attended =
        attend_layer(dense, hidden_TD_[layer], {config_, rope_, text_.cu_seqlens, dispatcher_});
    LayerFeatures features;
    features.ffn_inputs = {attended.ffn_input_TD, text_.first_token, text_.total_tokens};
    features.hidden_TD = attended.x_TD;
    features.cu_seqlens = text_.cu_seqlens;
    const LayerInputs inputs{.config = config_,
                             .spec = request_.spec,
                             .layer = layer,
                             .seed = request_.seed,
                             .dense = &dense,
                             .features = &features,
                             .options = request_.options};
    TokenGroups groups = request_.group_tokens(inputs, hidden_TD_, world_);
    MOE_CHECK(groups.ids_T.sizes() == text_.tokens_T.sizes() && groups.count > 0, "one group for each token");
    if (groups.is_of_all_layers) groups_of_all_layers_ = groups;
    return groups;
  }

  const DenseSource& model_;
  const ModelConfig& config_;
  const CalibrationText& text_;
  const ImportanceRequest& request_;
  Communicator& world_;
  RopeAngles rope_;
  LocalDispatcher dispatcher_;
  std::vector<at::Tensor> hidden_TD_;  ///< before each layer, and after the last; where nobody groups by them any more,
                                       ///< dropped on the way back
  std::optional<TokenGroups> groups_of_all_layers_;  ///< once a method has made such
  at::Tensor gradient_TD_;  ///< of the summed loss with respect to the stream where the backward is
};

}  // namespace

ImportanceMeasure ImportanceMeasure::of(const MethodOptions& options) {
  ImportanceMeasure measure;
  for (const auto& [name, value] : kSettings) {
    if (options.values().contains(name)) measure.*value = options.choice(name);
  }
  return measure;
}

std::string ImportanceMeasure::name() const {
  const ImportanceMeasure usual;
  std::string text;
  for (const auto& [name, value] : kSettings) {
    if (this->*value != usual.*value) text += concat(" ", name, "=", this->*value);
  }
  return text;
}

std::vector<Importance> measure_importance(const DenseSource& model, const CalibrationText& text,
                                           const ImportanceRequest& request, Communicator& world) {
  return ImportancePass(model, text, request, world).run();
}

}  // namespace moe
