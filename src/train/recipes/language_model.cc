#include "train/recipes/language_model.h"

#include <deque>
#include <utility>

#include "checkpoint/model_writer.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/idle_ranks.h"
#include "common/log.h"
#include "eval/expert_vitality.h"
#include "eval/load_statistics.h"
#include "model/fresh_weights.h"
#include "runtime/model_settings.h"
#include "train/router_problems.h"
#include "train/train_step.h"

namespace moe {
namespace {

using nlohmann::json;

/// In a checkpoint's scalars, where routers are frozen at first.
constexpr char kFrozenUpdates[] = "frozen_router_updates";

/// Steps whose expert load is summed for the closing figures.
constexpr size_t kLoadWindow = 20;

/// The expert load of the last steps.
class RecentLoad {
 public:
  void add(const json& line, const char* key) {
    if (!line.contains(key)) return;
    steps_.push_back(line[key]);
    if (steps_.size() > kLoadWindow) steps_.pop_front();
  }

  /// [layers][experts]; empty without any.
  std::vector<std::vector<int64_t>> sum() const {
    std::vector<std::vector<int64_t>> sum;
    for (const json& step : steps_) {
      const auto load = step.get<std::vector<std::vector<int64_t>>>();
      sum.resize(load.size());
      for (size_t layer = 0; layer < load.size(); ++layer) {
        sum[layer].resize(load[layer].size());
        for (size_t expert = 0; expert < load[layer].size(); ++expert) sum[layer][expert] += load[layer][expert];
      }
    }
    return sum;
  }

 private:
  std::deque<json> steps_;
};

/// What validations measure besides losses.
constexpr const char* kVitality[] = {"least_expert_rms_over_mean", "least_output_share_over_mean"};

/// The last losses, the load of the last steps, and every validation: what is held grows with these alone.
class LanguageModelSummary final : public RunSummary {
 public:
  void add(const json& line) override {
    balance_loss_ = line.value("balance_loss", json());
    attention_balance_loss_ = line.value("attention_balance_loss", json());
    last_validation_ = nullptr;
    if (line.contains("validation")) {
      last_validation_ = {{"step", line["step"]}, {"loss", line["validation_loss"]}, {"domains", line["validation"]}};
      validation_.push_back(last_validation_);
      for (const char* const name : kVitality) last_validation_[name] = line.value(name, json());
      if (line.contains("expert_vitality")) add_vitality(line);
    }
    load_.add(line, "expert_load");
    attention_load_.add(line, "attention_expert_load");
  }

  void finish(json& metrics, json& details) override {
    const std::vector<std::vector<int64_t>> load = load_.sum();
    metrics["balance_loss"] = balance_loss_;
    metrics["dead_expert_fraction"] = dead_expert_fraction(load);
    metrics["load_max_over_mean"] = load_max_over_mean(load);
    metrics["load_min_over_mean"] = load_min_over_mean(load);
    if (!last_validation_.is_null()) {
      metrics["validation_loss"] = last_validation_["loss"];
      for (const auto& [domain, loss] : last_validation_["domains"].items())
        metrics["validation_loss." + domain] = loss;
      for (const char* const name : kVitality) metrics[name] = last_validation_[name];
    }
    details["validation"] = validation_;
    if (!expert_vitality_.empty()) details["expert_vitality"] = expert_vitality_;
    details["expert_load"] = load;
    const std::vector<std::vector<int64_t>> attention_load = attention_load_.sum();
    if (attention_load.empty()) return;
    metrics["attention_balance_loss"] = attention_balance_loss_;
    metrics["attention_dead_expert_fraction"] = dead_expert_fraction(attention_load);
    metrics["attention_load_max_over_mean"] = load_max_over_mean(attention_load);
    metrics["attention_load_min_over_mean"] = load_min_over_mean(attention_load);
    details["attention_expert_load"] = attention_load;
  }

 private:
  /// Of every expert the lines have it.
  void add_vitality(const json& line) {
    json parts = line["expert_vitality"];
    for (json& part : parts) {
      part.erase("weight_norm");
      part.erase("output_share");
    }
    expert_vitality_.push_back({{"step", line["step"]}, {"parts", std::move(parts)}});
  }

  json balance_loss_, attention_balance_loss_, last_validation_, validation_ = json::array(),
                                                                 expert_vitality_ = json::array();
  RecentLoad load_, attention_load_;
};

/// What moves selection biases; nothing where the spec balances otherwise. Specs of before there was a choice name
/// none.
std::optional<BiasRule> bias_rule(const v1::TrainSpec& spec) {
  if (spec.balance() == "selection_bias") return BiasRule::kLoad;
  if (spec.balance() == "quantile") return BiasRule::kQuantile;
  return std::nullopt;
}

bool has_balance_loss(const v1::TrainSpec& spec) {
  return !spec.has_balance() || spec.balance() == "auxiliary" || spec.balance() == "importance_load" ||
         spec.balance() == "constant";
}

ExpertChoice choice_of(const v1::TrainSpec& spec) {
  return spec.has_routing() ? parse_expert_choice(spec.routing()) : ExpertChoice::kRouter;
}

void check_routers(const v1::TrainSpec& spec, const ModelConfig& config) {
  const std::vector<RouterProblem> problems = router_problems(spec, config);
  if (!problems.empty()) throw InvalidArgument("train: " + problems.front().message);
}

}  // namespace

LanguageModel::LanguageModel(const TrainRequest& request, Mesh& mesh, const GroupOf& group_of)
    : request_(request),
      spec_(request.spec),
      mesh_(mesh),
      model_(load_model(
          request.model, mesh, weight_options(request.gang), spec_.template_(),
          [this](const ModelConfig& config) { check_routers(spec_, config); },
          /*with_selection_bias=*/bias_rule(spec_).has_value())),
      parameters_(in_groups(model_.decoder.parameters(), group_of)) {
  if (spec_.from_scratch()) draw_fresh_weights(parameters_.all, model_.config(), request.seed);
  if (compute_type(request.gang) != weight_type(request.gang)) begin_masters();
  if (const std::optional<BiasRule> rule = bias_rule(spec_); rule && model_.config().moe) {
    const MoeConfig& moe = *model_.config().moe;
    const double rate = spec_.selection_bias_rate();
    if (moe.num_experts > 0) selection_balance_.emplace(parameters_.all, moe.top_k, *rule, rate);
    if (moe.attention)
      attention_selection_balance_.emplace(parameters_.all, moe.attention->top_k, *rule, rate, /*of_attention=*/true);
  }
  agree(mesh_.world(), "read the data for " + request_.model.string(), [this] { read_data(); });
  const std::string idle = idle_ranks(mesh_.world().size(), spec_.micro_batch_rows());
  if (mesh_.world().rank() == 0 && !idle.empty()) log_warning("event=ranks_without_rows; " + idle);
}

/// What was loaded becomes the masters.
void LanguageModel::begin_masters() {
  const ModelConfig config = model_.config();
  masters_ =
      std::exchange(model_.decoder, Decoder(config, compute_options(request_.gang), mesh_.owned_experts(config)));
  working_.emplace(parameters_.all, model_.decoder.parameters());
  working_->round();
}

void LanguageModel::read_data() {
  const ModelConfig& config = model_.config();
  const std::shared_ptr<const Tokenizer>& tokenizer = model_.text.tokenizer;
  PackingOptions packing;
  packing.sequence_length = sequence_length_for(config, spec_.sequence_length());
  packing.append_eos = spec_.append_eos();
  packing.chat_template = model_.text.chat_template;
  if (spec_.has_supervise()) packing.chat.supervise = spec_.supervise();
  packing.chat.drop_system = spec_.drop_system();
  packing.long_chats = spec_.long_documents();
  packing.seed = request_.seed;
  packing.vocab_size = config.vocab_size;
  loader_ = std::make_unique<DataLoader>(data_files(spec_.data()), tokenizer, packing);
  chat_template_ = packing.chat_template.name;
  if (loader_->has_chats()) {
    jinja_ =
        chat_template_to_write(request_.model, chat_template_, tokenizer != nullptr && tokenizer->bos_id().has_value());
  }
  if (mesh_.world().rank() == 0) log_info("event=data_loaded " + loader_->summary());
  if (!spec_.validation().empty()) {
    held_out_ = std::make_unique<HeldOutData>(data_files(spec_.validation()), tokenizer,
                                              HeldOutOptions{packing, spec_.validation_tokens()});
  }
}

std::map<std::string, std::string> LanguageModel::data_digests() const {
  std::map<std::string, std::string> files = loader_->file_digests();
  if (held_out_) files.merge(held_out_->file_digests());
  return files;
}

int64_t LanguageModel::first_row(int64_t finished) const {
  return finished * spec_.micro_batch_rows() * spec_.micro_steps();
}

/// A router without a gradient is left alone by the optimizer: it keeps its bits, moments included.
void LanguageModel::freeze_routers(bool are_frozen) {
  are_routers_frozen_ = are_frozen;
  for (size_t i = 0; i < parameters_.all.size(); ++i) {
    if (is_of_router(parameters_.all[i].id.part))
      parameters_.all[i].value.set_requires_grad(parameters_.groups[i].is_trained && !are_frozen);
  }
}

RecipeStep LanguageModel::step(int64_t finished) {
  if (spec_.frozen_router_steps() > 0) freeze_routers(finished < spec_.frozen_router_steps());
  StepOptions options{.micro_batch_rows = spec_.micro_batch_rows(),
                      .micro_steps = spec_.micro_steps(),
                      .balance_loss = has_balance_loss(spec_) ? spec_.balance_loss() : 0,
                      .balance_form = balance_form_of(spec_.balance()),
                      .balance_scope = spec_.has_balance_scope() ? parse_balance_scope(spec_.balance_scope())
                                                                 : BalanceScope::kMicroBatch,
                      .balance_layers = spec_.has_balance_layers() ? parse_balance_layers(spec_.balance_layers())
                                                                   : BalanceLayers::kPerLayer,
                      .load_estimator = spec_.has_load_estimator() ? parse_load_estimator(spec_.load_estimator())
                                                                   : LoadEstimator::kExact,
                      .z_loss = spec_.z_loss(),
                      .noise = {.seed = request_.seed, .step = finished},
                      .choice = choice_of(spec_),
                      .capacity_factor = spec_.capacity_factor(),
                      .dropped_give_input = spec_.dropped_tokens() == "input"};
  options.attention_balance_loss = options.balance_loss;
  if (has_balance_loss(spec_) && spec_.has_attention_balance_loss())
    options.attention_balance_loss = spec_.attention_balance_loss();
  if (selection_balance_) {
    selection_balance_->begin();
    options.reads_each_token = selection_balance_->reads_each_token();
    options.on_routing = [this](const std::vector<RouterStats>& routers) { selection_balance_->add(routers); };
  }
  if (attention_selection_balance_) {
    attention_selection_balance_->begin();
    options.reads_each_token = attention_selection_balance_->reads_each_token();
    options.on_attention_routing = [this](const std::vector<RouterStats>& routers) {
      attention_selection_balance_->add(routers);
    };
  }
  if (working_) {
    working_->require_gradients();
    options.on_gradients = [this] { working_->move_gradients(); };
  }
  const StepOutcome outcome =
      compute_gradients(model_.decoder, *model_.dispatcher, mesh_, *loader_, first_row(finished), options);
  RecipeStep step{.loss = outcome.loss,
                  .total_loss = outcome.loss + options.balance_loss * outcome.balance_loss +
                                options.attention_balance_loss * outcome.attention_balance_loss +
                                options.z_loss * outcome.z_loss,
                  .tokens = outcome.tokens,
                  .statistics = outcome.layers,
                  .expert_load = outcome.expert_load,
                  .attention_expert_load = outcome.attention_expert_load};
  step.statistics["balance_loss"] = outcome.balance_loss;
  if (!outcome.attention_expert_load.empty())
    step.statistics["attention_balance_loss"] = outcome.attention_balance_loss;
  if (options.capacity_factor > 0) step.statistics["dropped_tokens"] = static_cast<double>(outcome.dropped_tokens);
  if (options.z_loss > 0) step.statistics["z_loss"] = outcome.z_loss;
  return step;
}

std::vector<int64_t> LanguageModel::missed_updates() const {
  if (frozen_updates_ == 0) return {};
  std::vector<int64_t> missed;
  for (const Parameter& parameter : parameters_.all)
    missed.push_back(is_of_router(parameter.id.part) ? frozen_updates_ : 0);
  return missed;
}

void LanguageModel::after_update() {
  if (are_routers_frozen_) {
    ++frozen_updates_;
  } else {
    if (selection_balance_) selection_balance_->update(mesh_.world());
    if (attention_selection_balance_) attention_selection_balance_->update(mesh_.world());
  }
  if (working_) working_->round();
}

std::optional<Validation> LanguageModel::validate() {
  if (!held_out_) return std::nullopt;
  const PassChoice choice{choice_of(spec_), {.seed = request_.seed}};
  const TokenReport report = measure_loss(model_.decoder, *model_.dispatcher, *held_out_, mesh_, {}, choice);
  Validation validation{.loss = report.total().mean(), .domains = {}};
  for (const auto& [name, sum] : report.domains) validation.domains[name] = sum.mean();
  const std::vector<ExpertVitality> parts = measure_expert_vitality(model_, *held_out_, mesh_, choice);
  validation.statistics = {{"least_expert_rms_over_mean", worst_of(parts, &ExpertVitality::weight_rms)},
                           {"least_output_share_over_mean", worst_of(parts, &ExpertVitality::output_share)}};
  for (const ExpertVitality& part : parts) {
    json told = {{"layer", part.layer},
                 {"part", part.part},
                 {"weight_norm", part.weight_norm},
                 {"least_rms_over_mean", least_over_mean(part.weight_rms)}};
    if (!part.output_share.empty()) {
      told["output_share"] = part.output_share;
      told["least_share_over_mean"] = least_over_mean(part.output_share);
    }
    validation.expert_vitality.push_back(std::move(told));
  }
  return validation;
}

json LanguageModel::state(int64_t finished) {
  json state = {{"data", loader_->fingerprint()}, {"place", loader_->place_of(first_row(finished))}};
  if (spec_.frozen_router_steps() > 0) state[kFrozenUpdates] = frozen_updates_;
  return state;
}

void LanguageModel::restore(const json& scalars) {
  // A version that recorded no digests of the inputs recorded this one.
  if (!scalars.contains("inputs") && scalars.value("data", "") != loader_->fingerprint()) {
    throw_agreed<InvalidArgument>(concat("the checkpoints in ", request_.checkpoints_path().string(),
                                         " were made from other data; restore it, or begin anew"));
  }
  // A version that kept no count gave routers the count of all updates.
  frozen_updates_ = scalars.value(kFrozenUpdates, int64_t{0});
  if (working_) working_->round();
  agree(mesh_.world(), "go to the place in the data", [&] {
    if (scalars.contains("place")) loader_->go_to(scalars.at("place"));
  });
}

std::unique_ptr<RunSummary> LanguageModel::summary() const {
  return std::make_unique<LanguageModelSummary>();
}

void LanguageModel::write_output() {
  ModelConfig config = model_.config();
  if (!chat_template_.empty()) config.source["chat_template_name"] = chat_template_;
  write_model(request_.output, request_.model, masters_ ? *masters_ : model_.decoder, config,
              weight_type(request_.gang), mesh_.world(), mesh_.replica_group().rank() == 0, jinja_);
}

}  // namespace moe
