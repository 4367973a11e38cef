#include "convert/step0_receipt.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/attention_receipt.h"
#include "convert/receipt_sums.h"
#include "convert/row_sums.h"
#include "model/layer.h"
#include "model/layer_weights.h"
#include "model/logit_comparison.h"
#include "model/moe/token_dispatcher.h"
#include "model/norm.h"
#include "model/ops.h"
#include "model/rope.h"

// T tokens of this rank, t of one row of text, D hidden, E experts, n ids of the vocabulary.
namespace moe {
namespace {

using nlohmann::json;

/// Ids whose logits are made at a time. Fixed, since a token's sums depend on it.
constexpr int64_t kIdsAtATime = 1024;
/// Rows of experts at a time where every expert sees every token.
constexpr int64_t kExpertRows = 4096;

/// All experts of a mixture: of a partition at weight one each, else as its router weighs them.
MoeOptions with_all_experts(MoeOptions options, bool is_partition) {
  options.router.top_k = options.num_experts;
  if (is_partition) {
    options.output_scale = 1;
    options.router.topk_norm = TopkNorm::kUnit;
    options.shared_gate = {};
  }
  return options;
}

/// The same of attention, whose experts are always a partition of the heads: at weight one where those of the FFNs are
/// too, so that what all experts of the model are is one thing.
Layer with_all_attention_experts(Layer layer, bool at_weight_one) {
  auto* const experts = std::get_if<MoeAttention>(&layer.attention);
  if (experts == nullptr) return layer;
  AttentionExpertOptions& options = experts->options;
  options.router.top_k = options.num_experts - options.always_on;
  if (at_weight_one) {
    options.output_scale = 1;
    options.router.topk_norm = TopkNorm::kUnit;
  }
  return layer;
}

/// What one row of text adds, of one layer.
struct LayerSums {
  double error = 0, wanted = 0;                     ///< squares
  double logits = 0, logit_squares = 0, pairs = 0;  ///< of the router; (token, expert) pairs
};
constexpr size_t kSumsOfLayer = 5;

class ReceiptPass {
 public:
  ReceiptPass(const ReceiptRequest& request, Communicator& world)
      : request_(request),
        text_(request.text.receipt),
        world_(world),
        rope_(RopeTable(request.dense.config(), at::kFloat).angles(text_.cu_seqlens)),
        layer_sums_(request.dense.config().num_layers, std::vector<LayerSums>(text_.rows())),
        load_(request.dense.config().num_layers),
        attention_(request.converted.config(), text_.rows()) {
    for (int64_t row = 0; row < text_.rows(); ++row) {
      cu_seqlens_.push_back(text_.row_cu_seqlens(row));
      comparisons_.emplace_back(of_row(text_.labels_T, row), kStreams);
    }
  }

  json run() {
    embed();
    const int64_t layers = request_.dense.config().num_layers;
    for (int64_t layer = 0; layer < layers; ++layer) {
      agree(world_, concat("measure layer ", layer), [&] {
        run_converted(load_layer(request_.converted, layer, at::kFloat));
        run_dense(load_layer(request_.dense, layer, at::kFloat));
      });
      if (layer + 1 < layers) finish_layer(layer);
    }
    agree(world_, "compare logits", [&] { compare_logits(); });
    const json receipt = describe();
    finish_layer(layers - 1);
    return receipt;
  }

 private:
  /// The streams whose logits are compared, the reference first.
  enum Stream : size_t { kDense, kChosen, kAll, kStreams };

  void finish_layer(int64_t layer) {
    if (request_.progress) request_.progress(layer + 1);
  }

  at::Tensor of_row(const at::Tensor& all, int64_t row) const {
    return all.slice(0, text_.row_begin[row], text_.row_begin[row + 1]);
  }

  const ModelDirectory& model_of(size_t stream) const { return stream == kDense ? request_.dense : request_.converted; }

  void embed() {
    agree(world_, "embed the receipt's text", [&] {
      for (size_t stream = 0; stream < kStreams; ++stream) {
        const ModelDirectory& model = model_of(stream);
        const std::string name = tensor_name(model.config(), {TensorPart::kEmbedding});
        hidden_TD_.push_back(model.tensor(name).index_select(0, text_.tokens_T).to(at::kFloat));
        model.release(name);
      }
    });
    ffn_inputs_TD_ = at::empty_like(hidden_TD_[kChosen]);
    ffn_outputs_TD_ = at::empty_like(hidden_TD_[kChosen]);
  }

  /// Both streams of the converted model, and what the layer's attention and FFN read and gave in the first.
  void run_converted(const Layer& layer) {
    const auto* const mixture = std::get_if<MoeFeedForward>(&layer.ffn);
    const Layer with_all = with_all_attention_experts(layer, request_.is_partition);
    for (int64_t row = 0; row < text_.rows(); ++row) {
      const RopeAngles rope{of_row(rope_.cos, row), of_row(rope_.sin, row)};
      const LayerContext context{request_.converted.config(), rope, cu_seqlens_[row], dispatcher_};
      LayerContext observed = context;
      observed.options.keeps_routing = true;
      const at::Tensor ffn_output = of_row(ffn_outputs_TD_, row);
      observed.options.observer = [&](int64_t /*layer*/, LayerPoint point, const at::Tensor& values) {
        if (point == LayerPoint::kFfnInput) of_row(ffn_inputs_TD_, row).copy_(values);
        if (point == LayerPoint::kAttended) ffn_output.copy_(values);
      };
      const at::Tensor chosen = of_row(hidden_TD_[kChosen], row), all = of_row(hidden_TD_[kAll], row);
      const LayerOutput ran = run_layer(layer, chosen, observed);
      if (ran.attention_router)
        attention_.add_converted(layer, row, chosen, ffn_output, *ran.attention_router, cu_seqlens_[row]);
      ffn_output.neg_().add_(ran.x_TD);
      chosen.copy_(ran.x_TD);
      if (mixture == nullptr) {
        all.copy_(run_layer(with_all, all, context).x_TD);
        continue;
      }
      add_router(layer.index, *mixture, ran, row);
      all.copy_(run_all(with_all, *mixture, all, context));
    }
  }

  void add_router(int64_t layer, const MoeFeedForward& mixture, const LayerOutput& ran, int64_t row) {
    const at::Tensor logits_tE =
        router_logits(of_row(ffn_inputs_TD_, row), mixture.weights.router, mixture.options.router.gate).to(at::kDouble);
    LayerSums& sums = layer_sums_[layer][row];
    sums.logits = sum_one_by_one(logits_tE.sum(1));
    sums.logit_squares = sum_of_squares(logits_tE);
    sums.pairs = static_cast<double>(logits_tE.numel());
    const at::Tensor& load_E = ran.router->tokens_per_expert_E;
    load_[layer] = load_[layer].defined() ? load_[layer] + load_E : load_E;
  }

  /// The layer with all experts of every token: some tokens at a time, since each is as many rows as there are experts.
  at::Tensor run_all(const Layer& layer, const MoeFeedForward& mixture, const at::Tensor& x_tD,
                     const LayerContext& context) {
    const AttendedLayer attended = attend_layer(layer, x_tD, context);
    const MoeOptions options = with_all_experts(mixture.options, request_.is_partition);
    const int64_t tokens = x_tD.size(0), step = std::max<int64_t>(1, kExpertRows / options.num_experts);
    std::vector<at::Tensor> outputs;
    for (int64_t first = 0; first < tokens; first += step) {
      const at::Tensor some = attended.ffn_input_TD.narrow(0, first, std::min(step, tokens - first));
      outputs.push_back(moe_layer(mixture.weights, options, some, dispatcher_, layer.index).y_TD);
    }
    return attended.x_TD + at::cat(outputs);
  }

  /// The dense stream, and the dense FFN on what the converted one read.
  void run_dense(const Layer& layer) {
    for (int64_t row = 0; row < text_.rows(); ++row) {
      const RopeAngles rope{of_row(rope_.cos, row), of_row(rope_.sin, row)};
      const LayerContext context{request_.dense.config(), rope, cu_seqlens_[row], dispatcher_};
      attention_.add_dense(layer, row, context);
      const at::Tensor x = of_row(hidden_TD_[kDense], row);
      x.copy_(run_layer(layer, x, context).x_TD);
      const at::Tensor wanted =
          feed_forward(std::get<FeedForwardWeights>(layer.ffn), of_row(ffn_inputs_TD_, row)).to(at::kDouble);
      LayerSums& sums = layer_sums_[layer.index][row];
      sums.wanted = sum_of_squares(wanted);
      sums.error = sum_of_squares(wanted - of_row(ffn_outputs_TD_, row));
    }
  }

  void compare_logits() {
    const Head dense(request_.dense), converted(request_.converted);
    const auto head_of = [&](size_t stream) -> const Head& { return stream == kDense ? dense : converted; };
    for (size_t stream = 0; stream < kStreams; ++stream)
      hidden_TD_[stream] = normalize(model_of(stream).config(), head_of(stream).norm, hidden_TD_[stream]);
    const int64_t vocabulary = request_.dense.config().vocab_size;
    for (int64_t first = 0; first < vocabulary; first += kIdsAtATime) {
      const int64_t ids = std::min(kIdsAtATime, vocabulary - first);
      const Head::Part of_dense = dense.part(first, ids), of_converted = converted.part(first, ids);
      for (int64_t row = 0; row < text_.rows(); ++row) {
        std::vector<at::Tensor> logits_tn;
        for (size_t stream = 0; stream < kStreams; ++stream) {
          const Head::Part& part = stream == kDense ? of_dense : of_converted;
          logits_tn.push_back(ops::linear(of_row(hidden_TD_[stream], row), part.weight_nD, part.bias_n));
        }
        comparisons_[row].add(first, logits_tn);
      }
      dense.release();
      converted.release();
    }
  }

  /// What turns the last layer's stream into logits, as it is stored.
  class Head {
   public:
    explicit Head(const ModelDirectory& model)
        : model_(model),
          name_(tensor_name(model.config(),
                            {model.config().tie_word_embeddings ? TensorPart::kEmbedding : TensorPart::kHead})),
          weight_VD_(model.tensor(name_)) {
      const auto get = [&](const TensorId& id) { return model.tensor(tensor_name(model.config(), id)).to(at::kFloat); };
      norm = final_norm_weights(model.config(), get);
      if (model.config().head_bias) bias_V_ = get(TensorId{TensorPart::kHead}.bias());
      release();  // tensor() reads all of it
    }

    /// Of the ids [first, first + ids), in float.
    struct Part {
      at::Tensor weight_nD, bias_n;
    };
    Part part(int64_t first, int64_t ids) const {
      return {weight_VD_.narrow(0, first, ids).to(at::kFloat).contiguous(),
              bias_V_.defined() ? bias_V_.narrow(0, first, ids).contiguous() : at::Tensor()};
    }
    /// No page needs to stay.
    void release() const { model_.release(name_); }

    NormWeights norm;

   private:
    const ModelDirectory& model_;
    std::string name_;
    at::Tensor weight_VD_, bias_V_;
  };

  /// Of all rows of the world, in one order: targets, the loss of each stream, the divergence of each but the first;
  /// then those of the layers' FFNs, then of their attention.
  std::vector<double> total_sums() {
    RowSums sums;
    size_t count = 0;
    for (int64_t row = 0; row < text_.rows(); ++row) {
      std::vector<double> values{of_row(text_.labels_T, row).ge(0).sum().item<double>()};
      for (size_t stream = 0; stream < kStreams; ++stream)
        values.push_back(sum_one_by_one(comparisons_[row].losses_T(stream)));
      for (size_t stream = 1; stream < kStreams; ++stream)
        values.push_back(sum_one_by_one(comparisons_[row].divergences_T(stream)));
      for (const std::vector<LayerSums>& layer : layer_sums_) {
        const LayerSums& of = layer[row];
        values.insert(values.end(), {of.error, of.wanted, of.logits, of.logit_squares, of.pairs});
      }
      const std::vector<double> of_attention = attention_.sums_of_row(row);
      values.insert(values.end(), of_attention.begin(), of_attention.end());
      count = values.size();
      sums.add(text_.first_row + row, at::tensor(values, at::kDouble));
    }
    const auto expected = static_cast<int64_t>(2 * kStreams + kSumsOfLayer * layer_sums_.size()) + attention_.count();
    MOE_CHECK(count == 0 || static_cast<int64_t>(count) == expected, "sums of the receipt");
    const at::Tensor total = sums.total({expected}, world_, "sums of the receipt").contiguous();
    const auto* const first = total.const_data_ptr<double>();
    return {first, first + total.numel()};
  }

  /// The largest of all ranks of: the reference's logits, and how far those with all experts are from them.
  std::pair<double, double> largest_logits() {
    at::Tensor mine = at::zeros({1, 2}, at::kDouble);
    for (const LogitComparison& row : comparisons_) {
      mine = at::maximum(mine, at::tensor({row.largest_logit(), row.largest_difference(kAll)}, at::kDouble));
    }
    const at::Tensor largest = world_.all_gather(mine, "largest logits of the receipt").amax(0);
    return {largest[0].item<double>(), largest[1].item<double>()};
  }

  json layer_report(int64_t layer, const double* sums) {
    json report = load_report(load_[layer], concat("load of layer ", layer, " in the receipt"), world_);
    report["layer"] = layer;
    report["relative_ffn_error"] = share_of(sums[0], sums[1]);
    report["router_logit_deviation"] = deviation_of(sums[2], sums[3], sums[4]);
    return report;
  }

  json describe() {
    const std::vector<double> sums = total_sums();
    const double targets = sums[0], tokens = static_cast<double>(text_.total_tokens);
    const auto losses = [&](size_t stream) {
      const double loss = sums[1 + stream] / targets;
      json made = {{"loss", loss}, {"perplexity", std::exp(loss)}};
      if (stream != kDense) made["kl_divergence"] = sums[kStreams + stream] / tokens;
      return made;
    };
    const MoeConfig& moe = *request_.converted.config().moe;
    json receipt = {{"tokens", text_.total_tokens},
                    {"targets", static_cast<int64_t>(targets)},
                    {"held_out", request_.text.receipt_is_held_out},
                    {"dense", losses(kDense)},
                    {"chosen", losses(kChosen)},
                    {"all", losses(kAll)},
                    {"layers", json::array()}};
    if (moe.num_experts > 0) {
      receipt["chosen"]["experts"] = moe.top_k;
      receipt["all"]["experts"] = moe.num_experts;
    }
    receipt["all"]["weights"] = request_.is_partition ? "one" : "router";
    const auto [largest, difference] = largest_logits();
    if (request_.is_partition) {
      receipt["all"]["largest_logit_difference"] = difference;
      receipt["all"]["relative_logit_difference"] = largest == 0 ? 0 : difference / largest;
    }
    int64_t dead = 0;
    const double* of_layer = sums.data() + 2 * kStreams;
    for (size_t layer = 0; layer < load_.size(); ++layer, of_layer += kSumsOfLayer) {
      if (moe.expert_widths[layer] == 0) continue;  // stays dense
      const auto index = static_cast<int64_t>(layer);
      if (!load_[layer].defined()) load_[layer] = at::zeros({moe.num_experts}, at::kLong);  // no row on this rank
      receipt["layers"].push_back(layer_report(index, of_layer));
      const json& counts = receipt["layers"].back()["expert_load"];
      dead += std::count(counts.begin(), counts.end(), json(0));
    }
    receipt["dead_experts"] = dead;
    if (!attention_.is_empty()) receipt["attention"] = attention_.describe(of_layer, world_);
    return receipt;
  }

  const ReceiptRequest& request_;
  const TextRows& text_;
  Communicator& world_;
  RopeAngles rope_;
  LocalDispatcher dispatcher_;
  std::vector<std::vector<int64_t>> cu_seqlens_;    ///< of each row
  std::vector<at::Tensor> hidden_TD_;               ///< by stream
  at::Tensor ffn_inputs_TD_, ffn_outputs_TD_;       ///< of the layer at hand in kChosen
  std::vector<std::vector<LayerSums>> layer_sums_;  ///< [layers][rows]
  std::vector<at::Tensor> load_;                    ///< [layers]: [E]; undefined where nothing routed
  AttentionReceipt attention_;
  std::deque<LogitComparison> comparisons_;  ///< of each row
};

}  // namespace

json step0_receipt(const ReceiptRequest& request, Communicator& world) {
  const at::NoGradGuard no_grad;
  return ReceiptPass(request, world).run();
}

}  // namespace moe
