#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/idle_ranks.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

/// train: continual pre-training and supervised post-training.
namespace moe {
namespace {

const std::vector<std::string> kBalances{"auxiliary", "importance_load", "selection_bias",
                                         "quantile",  "constant",        "none"};
constexpr double kBalanceLoss = 0.01, kSelectionBiasRate = 1e-3;

/// What chooses at random is even without a balance.
const char* default_balance(const v1::TrainSpec& train) {
  return train.routing() == "random" ? "none" : "auxiliary";
}

v1::TrainSpec filled_train(const v1::TrainSpec& train) {
  v1::TrainSpec filled = train;
  const int64_t steps = filled.steps();
  fill_sources(*filled.mutable_data());
  fill_sources(*filled.mutable_validation());
  if (!filled.has_micro_batch_rows()) filled.set_micro_batch_rows(8);
  if (!filled.has_micro_steps()) filled.set_micro_steps(1);
  if (!filled.has_learning_rate()) filled.set_learning_rate(2e-4);
  if (!filled.has_learning_rate_floor()) filled.set_learning_rate_floor(0.1);
  if (!filled.has_warmup_steps()) filled.set_warmup_steps(steps / 20);
  if (!filled.has_beta1()) filled.set_beta1(0.9);
  if (!filled.has_beta2()) filled.set_beta2(0.95);
  if (!filled.has_epsilon()) filled.set_epsilon(1e-8);
  if (!filled.has_weight_decay()) filled.set_weight_decay(0.1);
  if (!filled.has_clip_norm()) filled.set_clip_norm(1);
  if (!filled.has_balance_loss()) filled.set_balance_loss(kBalanceLoss);
  if (!filled.has_attention_balance_loss()) filled.set_attention_balance_loss(filled.balance_loss());
  if (!filled.has_routing()) filled.set_routing("router");
  if (!filled.has_balance_layers()) filled.set_balance_layers("per_layer");
  if (!filled.has_capacity_factor()) filled.set_capacity_factor(0);
  if (!filled.has_dropped_tokens()) filled.set_dropped_tokens("zero");
  if (!filled.has_from_scratch()) filled.set_from_scratch(false);
  if (!filled.has_balance()) filled.set_balance(default_balance(filled));
  if (!filled.has_balance_scope()) filled.set_balance_scope("global_batch");
  if (!filled.has_load_estimator()) filled.set_load_estimator("exact");
  if (!filled.has_selection_bias_rate()) filled.set_selection_bias_rate(kSelectionBiasRate);
  if (!filled.has_z_loss()) filled.set_z_loss(0);
  if (!filled.has_frozen_router_steps()) filled.set_frozen_router_steps(0);
  if (!filled.has_validate_every()) filled.set_validate_every(std::max<int64_t>(1, steps / 10));
  if (!filled.has_validation_tokens()) filled.set_validation_tokens(16384);
  if (!filled.has_checkpoint_every()) filled.set_checkpoint_every(std::max<int64_t>(1, steps / 5));
  if (!filled.has_keep_checkpoints()) filled.set_keep_checkpoints(2);
  if (!filled.has_append_eos()) filled.set_append_eos(true);
  if (!filled.has_long_documents()) filled.set_long_documents("drop");
  if (!filled.has_supervise()) filled.set_supervise("all");
  if (!filled.has_drop_system()) filled.set_drop_system(false);
  return filled;
}

/// How routers are balanced and trained. What is set for another balance than the one named would be ignored; defaults
/// stand in every effective spec.
void check_routers(const v1::TrainSpec& train, const FieldChecks& checks) {
  checks.at_least("balance_loss", train.has_balance_loss(), train.balance_loss(), 0.0);
  checks.at_least("attention_balance_loss", train.has_attention_balance_loss(), train.attention_balance_loss(), 0.0);
  checks.choice("balance", train.has_balance(), train.balance(), kBalances);
  checks.choice("balance_scope", train.has_balance_scope(), train.balance_scope(),
                {"micro_batch", "sequence", "global_batch"});
  checks.choice("load_estimator", train.has_load_estimator(), train.load_estimator(), {"exact", "reference_v1"});
  checks.positive("selection_bias_rate", train.has_selection_bias_rate(), train.selection_bias_rate());
  checks.at_least("z_loss", train.has_z_loss(), train.z_loss(), 0.0);
  checks.at_least<int64_t>("frozen_router_steps", train.has_frozen_router_steps(), train.frozen_router_steps(), 0);
  if (train.steps() >= 1 && train.frozen_router_steps() > train.steps()) {
    checks.add("frozen_router_steps",
               concat("frozen_router_steps ", train.frozen_router_steps(), " is greater than steps ", train.steps()));
  }
  checks.choice("routing", train.has_routing(), train.routing(), {"router", "random"});
  checks.choice("balance_layers", train.has_balance_layers(), train.balance_layers(), {"per_layer", "concatenated"});
  checks.at_least("capacity_factor", train.has_capacity_factor(), train.capacity_factor(), 0.0);
  checks.choice("dropped_tokens", train.has_dropped_tokens(), train.dropped_tokens(), {"zero", "input"});
  if (train.dropped_tokens() == "input" && !(train.capacity_factor() > 0))
    checks.add("dropped_tokens",
               "has no effect (input) without capacity_factor: experts take every token; set capacity_factor, for "
               "example 1.25, or remove it");
  const std::string balance = train.has_balance() ? train.balance() : default_balance(train);
  if (train.routing() == "random" && balance != "none")
    checks.add("balance", concat("has no effect (", balance,
                                 ") with routing 'random', which is even as it is; set "
                                 "balance: none or remove it"));
  if (std::find(kBalances.begin(), kBalances.end(), balance) == kBalances.end()) return;
  const auto no_effect = [&](const char* field, const auto& value, const char* needed) {
    checks.add(field, concat("has no effect (", value, ") with balance '", balance, "'; set balance: ", needed,
                             " or remove it"));
  };
  const bool has_loss = balance == "auxiliary" || balance == "importance_load" || balance == "constant";
  if (!has_loss && train.has_balance_loss() && train.balance_loss() > 0 && train.balance_loss() != kBalanceLoss)
    no_effect("balance_loss", train.balance_loss(), "auxiliary");
  if (!has_loss && train.attention_balance_loss() > 0 && train.attention_balance_loss() != train.balance_loss())
    no_effect("attention_balance_loss", train.attention_balance_loss(), "auxiliary");
  if (balance != "auxiliary" && train.balance_scope() == "sequence")  // the others are defaults, of now and of before
    no_effect("balance_scope", train.balance_scope(), "auxiliary");
  if (balance != "auxiliary" && train.has_balance_layers() && train.balance_layers() != "per_layer")
    no_effect("balance_layers", train.balance_layers(), "auxiliary");
  if (balance != "importance_load" && train.has_load_estimator() && train.load_estimator() != "exact")
    no_effect("load_estimator", train.load_estimator(), "importance_load");
  if (balance != "selection_bias" && train.has_selection_bias_rate() &&
      train.selection_bias_rate() != kSelectionBiasRate)
    no_effect("selection_bias_rate", train.selection_bias_rate(), "selection_bias");
}

void check_train(const v1::Stage& stage, const FieldChecks& checks) {
  const v1::TrainSpec& train = stage.train();
  if (train.data().empty()) checks.add("data", "missing; list at least one JSONL file: [{path: FILE.jsonl}]");
  checks.sources("data", train.data(), false);
  checks.sources("validation", train.validation(), true);
  if (train.steps() < 1) checks.add("steps", concat("must be at least 1 (", train.steps(), "); it has no default"));
  checks.at_least("sequence_length", train.has_sequence_length(), train.sequence_length(), 2);
  checks.at_least("micro_batch_rows", train.has_micro_batch_rows(), train.micro_batch_rows(), 1);
  checks.at_least("micro_steps", train.has_micro_steps(), train.micro_steps(), 1);
  checks.positive("learning_rate", train.has_learning_rate(), train.learning_rate());
  checks.share("learning_rate_floor", train.has_learning_rate_floor(), train.learning_rate_floor());
  checks.at_least<int64_t>("warmup_steps", train.has_warmup_steps(), train.warmup_steps(), 0);
  if (train.steps() >= 1 && train.warmup_steps() > train.steps()) {
    checks.add("warmup_steps", concat("warmup_steps ", train.warmup_steps(), " is greater than steps ", train.steps()));
  }
  checks.decay("beta1", train.has_beta1(), train.beta1());
  checks.decay("beta2", train.has_beta2(), train.beta2());
  checks.positive("epsilon", train.has_epsilon(), train.epsilon());
  checks.at_least("weight_decay", train.has_weight_decay(), train.weight_decay(), 0.0);
  checks.at_least("clip_norm", train.has_clip_norm(), train.clip_norm(), 0.0);
  check_routers(train, checks);
  checks.at_least<int64_t>("validate_every", train.has_validate_every(), train.validate_every(), 0);
  checks.at_least<int64_t>("validation_tokens", train.has_validation_tokens(), train.validation_tokens(), 1);
  checks.at_least<int64_t>("checkpoint_every", train.has_checkpoint_every(), train.checkpoint_every(), 0);
  checks.at_least("keep_checkpoints", train.has_keep_checkpoints(), train.keep_checkpoints(), 1);
  checks.known("template", train.template_(), "templates");
  checks.choice("long_documents", train.has_long_documents(), train.long_documents(), {"drop", "truncate", "split"});
  checks.choice("supervise", train.has_supervise(), train.supervise(), {"all", "last", "whole"});
}

std::vector<std::string> idle_ranks_warning(const v1::Stage& stage) {
  const std::string idle = idle_ranks(stage.gang().ranks(), stage.train().micro_batch_rows());
  if (idle.empty()) return {};
  return {concat("gang.ranks: ", idle)};
}

/// The smooth load is that of learned noise, which attention's routers cannot have.
std::vector<std::string> hard_load_warning(const v1::Stage& stage, const std::vector<v1::Stage>& origins) {
  if (stage.train().balance() != "importance_load") return {};
  const auto conversion =
      std::find_if(origins.begin(), origins.end(), [](const v1::Stage& origin) { return origin.has_convert(); });
  if (conversion == origins.end()) return {};
  const v1::ConvertSpec& convert = conversion->convert();
  const std::string name = stage_name(*conversion);
  std::vector<std::string> warnings;
  if (convert.has_ffn() && convert.router().noise() != "learned") {
    warnings.push_back(concat(
        "balance importance_load counts tokens, which have no gradient, where routers have no learned noise, "
        "and stage ",
        name, " gives them none (convert.router.noise): of the two terms that of the weights alone trains them"));
  }
  if (convert.has_attention()) {
    warnings.push_back(
        concat("balance importance_load counts the tokens of attention's experts, which have no gradient, since "
               "attention's routers have no noise (stage ",
               name, "): of the two terms that of the weights alone trains them"));
  }
  return warnings;
}

/// The training would refuse the model, which takes until it is there.
std::vector<std::string> capacity_warning(const v1::Stage& stage, const std::vector<v1::Stage>& origins) {
  if (!(stage.train().capacity_factor() > 0)) return {};
  const auto conversion =
      std::find_if(origins.begin(), origins.end(), [](const v1::Stage& origin) { return origin.has_convert(); });
  if (conversion == origins.end() || (conversion->convert().has_ffn() && conversion->convert().ffn().top_k() == 1))
    return {};
  return {concat("capacity_factor ", stage.train().capacity_factor(),
                 " is of feed-forward experts with top_k 1, and stage ", stage_name(*conversion),
                 conversion->convert().has_ffn()
                     ? concat(" makes top_k ", conversion->convert().ffn().top_k(), ", whose experts take every token")
                     : std::string(" makes none"),
                 ": the training will refuse its model; remove it or set ffn.top_k: 1")};
}

std::vector<std::string> model_warnings(const v1::Stage& stage, const std::vector<v1::Stage>& origins) {
  std::vector<std::string> warnings = hard_load_warning(stage, origins);
  for (std::string& warning : capacity_warning(stage, origins)) warnings.push_back(std::move(warning));
  return warnings;
}

/// A warm-up that nobody gave is a share of the steps; more steps alone must not look like another warm-up.
bool is_default_warmup(const v1::TrainSpec& train) {
  v1::TrainSpec bare;
  bare.set_steps(train.steps());
  return filled_train(bare).warmup_steps() == train.warmup_steps();
}

void judge_steps(const v1::Stage& old, const v1::Stage& stage, std::vector<FieldChange>& found) {
  const v1::TrainSpec& before = old.train();
  const v1::TrainSpec& now = stage.train();
  for (FieldChange& change : found) {
    if (change.path == "train.steps" && now.steps() < before.steps()) {
      change.effect = FieldEffect::kResult;
      change.text += " (more steps continue a training, fewer do not)";
    }
    if (change.path == "train.warmup_steps" && before.steps() != now.steps() && is_default_warmup(before) &&
        is_default_warmup(now)) {
      change.effect = FieldEffect::kMore;
      change.text = "train.warmup_steps stays as it was begun";
    }
  }
}

}  // namespace

JobKind train_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kTrainedModel,
      .models = {"input"},
      .data = {"data", "validation"},
      .measured_data = {"validation"},
      .effects =
          {
              {"TrainSpec.input", kContents},
              {"TrainSpec.validation", kMeasure},
              {"TrainSpec.steps", kMore},
              {"TrainSpec.sequence_length", kResult},
              {"TrainSpec.micro_batch_rows", kResult},
              {"TrainSpec.micro_steps", kResult},
              {"TrainSpec.learning_rate", kResult},
              {"TrainSpec.learning_rate_floor", kResult},
              {"TrainSpec.warmup_steps", kResult},
              {"TrainSpec.beta1", kResult},
              {"TrainSpec.beta2", kResult},
              {"TrainSpec.epsilon", kResult},
              {"TrainSpec.weight_decay", kResult},
              {"TrainSpec.clip_norm", kResult},
              {"TrainSpec.balance_loss", kResult},
              {"TrainSpec.attention_balance_loss", kResult},
              {"TrainSpec.balance", kResult},
              {"TrainSpec.balance_scope", kResult},
              {"TrainSpec.load_estimator", kResult},
              {"TrainSpec.selection_bias_rate", kResult},
              {"TrainSpec.z_loss", kResult},
              {"TrainSpec.frozen_router_steps", kResult},
              {"TrainSpec.routing", kResult},
              {"TrainSpec.balance_layers", kResult},
              {"TrainSpec.capacity_factor", kResult},
              {"TrainSpec.dropped_tokens", kResult},
              {"TrainSpec.from_scratch", kResult},
              {"TrainSpec.validate_every", kBookkeeping},
              {"TrainSpec.validation_tokens", kMeasure},
              {"TrainSpec.checkpoint_every", kBookkeeping},
              {"TrainSpec.keep_checkpoints", kBookkeeping},
              {"TrainSpec.template", kResult},
              {"TrainSpec.append_eos", kResult},
              {"TrainSpec.long_documents", kResult},
              {"TrainSpec.supervise", kResult},
              {"TrainSpec.drop_system", kResult},
              // Nothing is reported under the names of these.
              {"train.data.domain", kBookkeeping},
          },
      .fill = [](v1::Stage& stage) { *stage.mutable_train() = filled_train(stage.train()); },
      .check = check_train,
      .plan =
          [](const v1::Stage& stage) {
            return concat(stage.train().steps(), " steps on ", stage.train().data_size(), " files");
          },
      .warnings = idle_ranks_warning,
      .origin_warnings = model_warnings,
      .judge = judge_steps,
      .has_steps = true,
      // Checkpoints of weights and two moments.
      .room = 8,
  };
}

}  // namespace moe
