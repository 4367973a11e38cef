#include "pipeline/validate_fields.h"

#include <algorithm>
#include <set>

#include "common/error.h"
#include "pipeline/defaults.h"

namespace moe {
namespace {

using google::protobuf::RepeatedPtrField;

void check_known(const std::string& value, const std::set<std::string>& known, const std::string& path,
                 ProblemSink& sink) {
  if (!value.empty() && !known.empty()) check_choice(value, {known.begin(), known.end()}, path, sink);
}

template <typename Number>
void check_at_least(bool is_set, Number value, Number least, const std::string& path, ProblemSink& sink) {
  if (is_set && value < least) sink.add(path, concat("must be at least ", least, " (", value, ")"));
}

void check_positive(bool is_set, double value, const std::string& path, ProblemSink& sink) {
  if (is_set && !(value > 0)) sink.add(path, concat("must be greater than 0 (", value, ")"));
}

void check_share(bool is_set, double value, const std::string& path, ProblemSink& sink) {
  if (is_set && !(value >= 0 && value <= 1)) sink.add(path, concat("must lie in 0 .. 1 (", value, ")"));
}

// [0, 1): the decay of a running mean.
void check_beta(bool is_set, double value, const std::string& path, ProblemSink& sink) {
  if (is_set && !(value >= 0 && value < 1)) sink.add(path, concat("must be at least 0 and less than 1 (", value, ")"));
}

// Losses are reported by domain, so where `unique_domains` two files must not share one.
void check_sources(const RepeatedPtrField<v1::DataSource>& sources, const std::string& path, bool unique_domains,
                   ProblemSink& sink) {
  std::map<std::string, int> first_of;
  for (int i = 0; i < sources.size(); ++i) {
    const v1::DataSource& source = sources[i];
    const std::string item = join_path(path, std::to_string(i));
    if (source.path().empty()) sink.add(join_path(item, "path"), "missing; name a JSONL file");
    check_positive(source.has_weight(), source.weight(), join_path(item, "weight"), sink);
    check_at_least<int64_t>(source.has_max_documents(), source.max_documents(), 0, join_path(item, "max_documents"),
                            sink);
    if (source.has_special_tokens())
      check_choice(source.special_tokens(), {"text", "parse"}, join_path(item, "special_tokens"), sink);
    if (source.has_domain() && source.domain().empty())
      sink.add(join_path(item, "domain"), "is empty; write a name or remove it");
    const std::string domain = domain_of(source);
    if (domain.empty()) continue;
    const auto [first, is_new] = first_of.emplace(domain, i);
    if (!is_new && unique_domains) {
      sink.add(item, concat("its domain '", domain, "' is also that of ", path, ".", first->second,
                            "; losses are reported by domain, so set `domain` on one of them"));
    }
  }
}

}  // namespace

void check_choice(const std::string& value, const std::vector<std::string>& allowed, const std::string& path,
                  ProblemSink& sink) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  const std::string nearest = nearest_name(value, allowed);
  sink.add(path,
           concat("unknown value (", value, "); ", nearest.empty() ? "" : concat("did you mean '", nearest, "'? "),
                  "known: ", comma_separated(allowed)));
}

void check_gang(const v1::GangSpec& gang, const std::string& path, ProblemSink& sink) {
  check_at_least(gang.has_ranks(), gang.ranks(), 0, join_path(path, "ranks"), sink);
  check_at_least(gang.has_expert_parallel(), gang.expert_parallel(), 0, join_path(path, "expert_parallel"), sink);
  if (gang.has_device()) check_choice(gang.device(), {"cpu", "cuda"}, join_path(path, "device"), sink);
  if (gang.has_dtype()) check_choice(gang.dtype(), {"float32", "float64"}, join_path(path, "dtype"), sink);
}

void check_convert(const v1::ConvertSpec& convert, const std::string& path, const KnownNames& known,
                   ProblemSink& sink) {
  const auto at = [&](const char* field) { return join_path(path, field); };
  if (convert.method().empty()) {
    sink.add(at("method"),
             concat("missing; name a conversion method", suggestion("", {known.methods.begin(), known.methods.end()})));
  }
  check_known(convert.method(), known.methods, at("method"), sink);
  if (convert.experts() < 1)
    sink.add(at("experts"), concat("must be at least 1 (", convert.experts(), "); it has no default"));
  if (convert.top_k() < 1) {
    sink.add(at("top_k"), concat("must be at least 1 (", convert.top_k(), "); it has no default"));
  } else if (convert.experts() >= 1 && convert.top_k() > convert.experts()) {
    sink.add(at("top_k"), concat("top_k ", convert.top_k(), " is greater than experts ", convert.experts(),
                                 "; choose at most as many experts as there are"));
  }
  check_known(convert.router_init(), known.router_inits, at("router_init"), sink);
  if (convert.has_router_scaling())
    check_choice(convert.router_scaling(), {"calibrated", "raw"}, at("router_scaling"), sink);
  if (convert.has_scale_mode()) {
    check_choice(convert.scale_mode(), {"least_squares", "n_over_k", "k", "energy", "unbiased", "fixed"},
                 at("scale_mode"), sink);
  }
  if (convert.has_topk_norm())
    check_choice(convert.topk_norm(), {"renorm", "straight_through", "raw"}, at("topk_norm"), sink);
  if (convert.has_preset()) check_choice(convert.preset(), {"ours", "published"}, at("preset"), sink);
  if (convert.has_dtype()) check_choice(convert.dtype(), {"source", "float32", "bfloat16"}, at("dtype"), sink);

  const v1::ConvertSpec effective = with_defaults(convert);
  const bool is_fixed = effective.scale_mode() == "fixed";
  if (is_fixed && !convert.has_output_scale()) {
    sink.add(at("output_scale"), "missing; scale_mode 'fixed' needs the scale of every layer");
  } else if (!is_fixed && convert.has_output_scale()) {
    sink.add(at("output_scale"), concat("has no effect (", convert.output_scale(), ") with scale_mode '",
                                        effective.scale_mode(), "'; set scale_mode: fixed or remove it"));
  }
  check_positive(convert.has_output_scale(), convert.output_scale(), at("output_scale"), sink);
  if (convert.calibration().empty()) {
    if (effective.router_init() == "random_selection") {
      sink.add(at("calibration"),
               "missing; router_init 'random_selection' needs calibration text: list JSONL files, or set "
               "router_init: kaiming");
    }
    if (effective.scale_mode() == "least_squares") {
      sink.add(at("calibration"),
               "missing; scale_mode 'least_squares' needs calibration text: list JSONL files, or set "
               "scale_mode: n_over_k");
    }
  }
  check_sources(convert.calibration(), at("calibration"), false, sink);
  check_at_least<int64_t>(convert.has_calibration_tokens(), convert.calibration_tokens(), 1, at("calibration_tokens"),
                          sink);
  check_known(convert.template_(), known.templates, at("template"), sink);
}

void check_train(const v1::TrainSpec& train, const std::string& path, const KnownNames& known, ProblemSink& sink) {
  const auto at = [&](const char* field) { return join_path(path, field); };
  if (train.data().empty()) sink.add(at("data"), "missing; list at least one JSONL file: [{path: FILE.jsonl}]");
  check_sources(train.data(), at("data"), false, sink);
  check_sources(train.validation(), at("validation"), true, sink);
  if (train.steps() < 1) sink.add(at("steps"), concat("must be at least 1 (", train.steps(), "); it has no default"));
  check_at_least(train.has_sequence_length(), train.sequence_length(), 2, at("sequence_length"), sink);
  check_at_least(train.has_micro_batch_rows(), train.micro_batch_rows(), 1, at("micro_batch_rows"), sink);
  check_at_least(train.has_micro_steps(), train.micro_steps(), 1, at("micro_steps"), sink);
  check_positive(train.has_learning_rate(), train.learning_rate(), at("learning_rate"), sink);
  check_share(train.has_learning_rate_floor(), train.learning_rate_floor(), at("learning_rate_floor"), sink);
  check_at_least<int64_t>(train.has_warmup_steps(), train.warmup_steps(), 0, at("warmup_steps"), sink);
  if (train.steps() >= 1 && train.warmup_steps() > train.steps()) {
    sink.add(at("warmup_steps"),
             concat("warmup_steps ", train.warmup_steps(), " is greater than steps ", train.steps()));
  }
  check_beta(train.has_beta1(), train.beta1(), at("beta1"), sink);
  check_beta(train.has_beta2(), train.beta2(), at("beta2"), sink);
  check_positive(train.has_epsilon(), train.epsilon(), at("epsilon"), sink);
  check_at_least(train.has_weight_decay(), train.weight_decay(), 0.0, at("weight_decay"), sink);
  check_at_least(train.has_clip_norm(), train.clip_norm(), 0.0, at("clip_norm"), sink);
  check_at_least(train.has_balance_loss(), train.balance_loss(), 0.0, at("balance_loss"), sink);
  check_at_least<int64_t>(train.has_validate_every(), train.validate_every(), 0, at("validate_every"), sink);
  check_at_least<int64_t>(train.has_validation_tokens(), train.validation_tokens(), 1, at("validation_tokens"), sink);
  check_at_least<int64_t>(train.has_checkpoint_every(), train.checkpoint_every(), 0, at("checkpoint_every"), sink);
  check_at_least(train.has_keep_checkpoints(), train.keep_checkpoints(), 1, at("keep_checkpoints"), sink);
  check_known(train.template_(), known.templates, at("template"), sink);
  if (train.has_long_documents())
    check_choice(train.long_documents(), {"drop", "truncate", "split"}, at("long_documents"), sink);
  if (train.has_supervise()) check_choice(train.supervise(), {"all", "last", "whole"}, at("supervise"), sink);
}

void check_evaluate(const v1::EvaluateSpec& evaluate, const std::string& path, const KnownNames& known,
                    ProblemSink& sink) {
  const auto at = [&](const char* field) { return join_path(path, field); };
  if (evaluate.data().empty()) sink.add(at("data"), "missing; list at least one JSONL file: [{path: FILE.jsonl}]");
  check_sources(evaluate.data(), at("data"), true, sink);
  for (int i = 0; i < evaluate.tasks_size(); ++i) {
    check_known(evaluate.tasks(i), known.tasks, concat(at("tasks"), ".", i), sink);
  }
  check_at_least(evaluate.has_sequence_length(), evaluate.sequence_length(), 2, at("sequence_length"), sink);
  check_at_least<int64_t>(evaluate.has_max_tokens(), evaluate.max_tokens(), 0, at("max_tokens"), sink);
  check_known(evaluate.template_(), known.templates, at("template"), sink);
}

void check_export(const v1::ExportSpec& spec, const std::string& path, const KnownNames& known, ProblemSink& sink) {
  const auto at = [&](const char* field) { return join_path(path, field); };
  check_known(spec.format(), known.export_formats, at("format"), sink);
  if (spec.has_dtype()) check_choice(spec.dtype(), {"bfloat16", "float32", "source"}, at("dtype"), sink);
  check_at_least<int64_t>(spec.has_max_shard_bytes(), spec.max_shard_bytes(), 1, at("max_shard_bytes"), sink);
  check_at_least<int64_t>(spec.has_pad_experts_to(), spec.pad_experts_to(), 0, at("pad_experts_to"), sink);
}

}  // namespace moe
