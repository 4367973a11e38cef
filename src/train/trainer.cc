#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>

#include "checkpoint/checkpointer.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/model_writer.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/idle_ranks.h"
#include "common/json_lines.h"
#include "common/log.h"
#include "common/memory_reuse.h"
#include "common/version.h"
#include "eval/load_statistics.h"
#include "eval/model_settings.h"
#include "eval/perplexity.h"
#include "parallel/dispatchers.h"
#include "parallel/replicas.h"
#include "train/lr_schedule.h"
#include "train/metrics_log.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int kMaxBadSteps = 3;
constexpr int kMaxFailedSaves = 2;
/// Steps whose expert load is summed for the closing figures.
constexpr int64_t kLoadWindow = 20;

/// Everything that changes from step to step besides tensors; what a checkpoint stores of it is enough to go on.
struct Position {
  int64_t step = 0;       ///< finished
  int64_t tokens = 0;     ///< seen
  int64_t updates = 0;    ///< of the optimizer: steps without those skipped
  int64_t bad_steps = 0;  ///< skipped in a row, at the end

  json to_json() const { return {{"step", step}, {"tokens", tokens}, {"updates", updates}, {"bad_steps", bad_steps}}; }
  static Position from_json(const json& j) {
    return {j.at("step"), j.at("tokens"), j.at("updates"), j.at("bad_steps")};
  }
};

class Trainer {
 public:
  Trainer(const TrainRequest& request, Communicator& world)
      : request_(request),
        spec_(request.spec),
        world_(world),
        mesh_(world, request.gang.expert_parallel()),
        schedule_{spec_.learning_rate(), spec_.learning_rate_floor(), spec_.warmup_steps(), spec_.steps()} {}

  std::optional<TrainOutcome> run() {
    keep_freed_memory();
    prepare();
    compare_ranks();
    resume();
    while (position_.step < spec_.steps()) {
      json line = step();
      const bool is_last = position_.step == spec_.steps();
      if (is_due(spec_.validate_every()) || is_last) validate(line);
      log(line);
      const bool stop = stop_requested();
      if (is_last || (!stop && !is_due(spec_.checkpoint_every()))) continue;
      // Who is asked to leave and cannot save trains on, and tries again after the next step.
      if (save() && stop) return std::nullopt;
    }
    compare_replicas();
    write_output();
    return outcome();
  }

 private:
  void prepare() {
    agree(world_, "load " + request_.model.string(), [&] {
      const ModelDirectory directory(request_.model);
      const ModelConfig& config = directory.config();
      const OwnedExperts experts = mesh_.owned_experts(config);
      dispatcher_ = config.moe ? make_dispatcher(mesh_) : std::make_unique<LocalDispatcher>();
      decoder_ = std::make_unique<Decoder>(load_decoder(directory, compute_type(request_.gang), experts));
      load_data(config);
    });
    const std::string idle = idle_ranks(world_.size(), spec_.micro_batch_rows());
    if (world_.rank() == 0 && !idle.empty()) log_warning("event=ranks_without_rows; " + idle);
    decoder_->set_requires_grad(true);
    optimizer_ = std::make_unique<AdamW>(
        decoder_->parameters(), AdamWOptions{spec_.beta1(), spec_.beta2(), spec_.epsilon(), spec_.weight_decay()});
  }

  void load_data(const ModelConfig& config) {
    const std::shared_ptr<const Tokenizer> tokenizer = tokenizer_for(request_.model);
    tokenizer_digest_ = tokenizer ? tokenizer->digest() : "none";
    PackingOptions packing;
    packing.sequence_length = sequence_length_for(config, spec_.sequence_length());
    packing.append_eos = spec_.append_eos();
    packing.chat_template = chat_template_for(request_.model, config, spec_.template_());
    if (spec_.has_supervise()) packing.chat.supervise = spec_.supervise();
    packing.chat.drop_system = spec_.drop_system();
    packing.long_chats = spec_.long_documents();
    packing.seed = request_.seed;
    packing.vocab_size = config.vocab_size;
    loader_ = std::make_unique<DataLoader>(data_files(spec_.data()), tokenizer, packing);
    chat_template_ = packing.chat_template.name;
    if (loader_->has_chats()) {
      jinja_ = chat_template_to_write(request_.model, chat_template_,
                                      tokenizer != nullptr && tokenizer->bos_id().has_value());
    }
    if (world_.rank() == 0) log_info("event=data_loaded " + loader_->summary());
    if (!spec_.validation().empty()) {
      held_out_ = std::make_unique<HeldOutData>(data_files(spec_.validation()), tokenizer,
                                                HeldOutOptions{packing, spec_.validation_tokens()});
    }
  }

  TrainingTensors tensors() {
    return {decoder_->parameters(), optimizer_->first_moments(), optimizer_->second_moments()};
  }

  void resume() {
    const auto scalars =
        load_newest_checkpoint(request_.job_path / "checkpoints", tensors(), world_, request_.checkpoints);
    if (scalars) go_on_from(*scalars);
    if (scalars && world_.size() > 1) require_same_files(world_, "read a checkpoint", hashed_weights());
    agree(world_, "open metrics", [&] {
      if (world_.rank() != 0) return;
      const int from = scalars ? scalars->value("attempt", 0) : 0;
      metrics_ =
          std::make_unique<MetricsLog>(request_.job_path / "attempts", request_.attempt_path, position_.step, from);
      for_each_json_line(metrics_->path(), [this](json&& line) { remember_load(line); });
    });
  }

  void go_on_from(const json& scalars) {
    // A version that recorded no digests of the inputs recorded this one.
    if (!scalars.contains("inputs") && scalars.value("data", "") != loader_->fingerprint()) {
      throw_agreed<InvalidArgument>(concat("the checkpoints in ", (request_.job_path / "checkpoints").string(),
                                           " were made from other data; restore it, or begin anew"));
    }
    position_ = Position::from_json(scalars.at("position"));
    std::string change;
    if (scalars.contains("schedule")) {
      const json& begun = scalars["schedule"];
      require_same_height(begun);
      schedule_.warmup_steps = begun.at("warmup_steps");
      earlier_schedules_ = begun.value("earlier", json::array());
      if (const int64_t before = begun.at("steps"); before != schedule_.steps) {
        earlier_schedules_.push_back(
            {{"until", position_.step}, {"steps", before}, {"warmup_steps", schedule_.warmup_steps}});
        change = concat(" steps=", schedule_.steps, " steps_before=", before, " warmup_steps=", schedule_.warmup_steps,
                        " learning_rate=", learning_rate(schedule_, position_.step + 1),
                        " reason=\"the cosine of all steps counts from here\"");
      }
    }
    agree(world_, "go to the place in the data", [&] {
      if (scalars.contains("place")) loader_->go_to(scalars.at("place"));
    });
    if (world_.rank() == 0) log_info(concat("event=resumed step=", position_.step, change));
  }

  /// Steps and warm-up may have been others, peak and floor not: the configurations were compared, and this is what was
  /// really in force.
  void require_same_height(const json& begun) const {
    const double peak = begun.at("peak"), floor = begun.at("floor");
    if (peak == schedule_.peak && floor == schedule_.floor) return;
    throw_agreed<InvalidArgument>(
        concat("the checkpoint of step ", position_.step, " in ", (request_.job_path / "checkpoints").string(),
               " was made with a learning rate of peak ", peak, " and floor ", floor, "; asked for are learning_rate ",
               schedule_.peak, " and learning_rate_floor ", schedule_.floor,
               ": put them back, or begin anew (--fresh, or another --out)"));
  }

  json schedule_in_force() const {
    json schedule = {{"peak", schedule_.peak},
                     {"floor", schedule_.floor},
                     {"warmup_steps", schedule_.warmup_steps},
                     {"steps", schedule_.steps}};
    if (!earlier_schedules_.empty()) schedule["earlier"] = earlier_schedules_;
    return schedule;
  }

  /// Files that differ between nodes would train on in silence: every rank its own.
  void compare_ranks() {
    std::map<std::string, std::string> files = loader_->file_digests();
    if (held_out_) files.merge(held_out_->file_digests());
    if (world_.size() > 1) {
      std::map<std::string, std::string> facts;
      agree(world_, "read fingerprints", [&] {
        facts = files;
        facts[(request_.model / "config.json").string()] = xxh3_hex_of_file(request_.model / "config.json");
        facts["tokenizer of " + request_.model.string()] = tokenizer_digest_;
        facts["effective config"] =
            xxh3_hex(concat(spec_.SerializeAsString(), request_.gang.SerializeAsString(), request_.seed));
        facts["moe-worker"] = kVersion;
        for (const auto& [name, digest] : replica_digests(decoder_->parameters()))
          facts[name + " of " + request_.model.string()] = digest;
      });
      require_same_files(world_, "before the first step", facts);
    }
    if (request_.on_data_read) request_.on_data_read(files);
  }

  /// Hashing takes long: the others wait here, not in the collective that compares.
  std::map<std::string, std::string> hashed_weights() {
    std::map<std::string, std::string> digests;
    agree(world_, "hash weights", [&] { digests = replica_digests(decoder_->parameters()); });
    return digests;
  }

  /// Replicas get the same sums in the same order, so the same bits, unless a machine fails.
  void compare_replicas() {
    if (world_.size() == 1) return;
    const std::string differences = differences_between_ranks(world_, "compare weights", hashed_weights());
    if (differences.empty()) return;
    throw_agreed<HardwareError>(concat(
        "after step ", position_.step, " the ranks hold other values of the same weights, and none of them is saved:\n",
        differences,
        "\nlook at the memory and processors of these nodes (all must be of one kind); training goes on from the "
        "checkpoint before"));
  }

  /// Of the step that comes.
  int64_t first_row() const { return position_.step * spec_.micro_batch_rows() * spec_.micro_steps(); }

  bool is_due(int64_t every) const { return every > 0 && position_.step % every == 0; }

  json step() {
    const auto started = std::chrono::steady_clock::now();
    const StepOptions options{spec_.micro_batch_rows(), spec_.micro_steps(), spec_.balance_loss()};
    optimizer_->zero_gradients();
    const StepOutcome outcome = compute_gradients(*decoder_, *dispatcher_, mesh_, *loader_, first_row(), options);
    ++position_.step;
    position_.tokens += outcome.tokens;
    const double rate = learning_rate(schedule_, position_.step);
    const bool is_finite = std::isfinite(outcome.loss) && std::isfinite(outcome.gradient_norm);
    if (is_finite) {
      const double clip =
          spec_.clip_norm() > 0 ? std::min(1.0, spec_.clip_norm() / (outcome.gradient_norm + 1e-6)) : 1.0;
      optimizer_->update(rate, clip, ++position_.updates);
      position_.bad_steps = 0;
    } else {
      skip(outcome);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    json line = {{"step", position_.step},
                 {"loss", outcome.loss},
                 {"balance_loss", outcome.balance_loss},
                 {"gradient_norm", outcome.gradient_norm},
                 {"learning_rate", rate},
                 {"tokens", position_.tokens},
                 {"tokens_per_second", static_cast<double>(outcome.tokens) / seconds},
                 {"step_seconds", seconds}};
    if (!is_finite) line["skipped"] = true;
    if (!outcome.expert_load.empty()) line["expert_load"] = outcome.expert_load;
    return line;
  }

  /// Every rank saw the same numbers, so all skip, and all give up, together.
  void skip(const StepOutcome& outcome) {
    ++position_.bad_steps;
    if (world_.rank() == 0) {
      log_warning(concat("event=step_skipped step=", position_.step, " loss=", outcome.loss,
                         " gradient_norm=", outcome.gradient_norm));
    }
    if (position_.bad_steps < kMaxBadSteps) return;
    throw_agreed<Diverged>(concat("training diverged: ", kMaxBadSteps, " steps in a row up to step ", position_.step,
                                  " gave no finite loss or gradient (loss ", outcome.loss, ", gradient norm ",
                                  outcome.gradient_norm, "); lower learning_rate ", spec_.learning_rate(),
                                  " or clip_norm ", spec_.clip_norm()));
  }

  void validate(json& line) {
    if (!held_out_) return;
    const LossReport report = measure_loss(*decoder_, *dispatcher_, *held_out_, mesh_);
    json domains = json::object();
    for (const auto& [name, sum] : report.domains) domains[name] = sum.mean();
    line["validation_loss"] = report.total().mean();
    line["validation"] = domains;
  }

  void log(const json& line) {
    if (metrics_) metrics_->write(line);  // throws nothing that the others would have to know
    remember_load(line);
    if (request_.on_line) request_.on_line(line);
    if (request_.progress) {
      request_.progress({position_.step, spec_.steps(), line["loss"].is_number() ? line["loss"].get<double>() : 0.0,
                         line["tokens_per_second"]});
    }
  }

  /// Of the last steps. The lines themselves stand in metrics.jsonl, where outcome() reads them: what is held does not
  /// grow with the steps. Only rank 0 has those of earlier attempts, and it speaks for all.
  void remember_load(const json& line) {
    if (line.contains("expert_load"))
      recent_load_.push_back(line["expert_load"].get<std::vector<std::vector<int64_t>>>());
    if (static_cast<int64_t>(recent_load_.size()) > kLoadWindow) recent_load_.erase(recent_load_.begin());
  }

  bool stop_requested() {
    at::Tensor votes = at::full({1}, request_.should_stop && request_.should_stop() ? 1 : 0, at::kLong);
    world_.all_reduce_sum(votes, "stop votes");
    return votes.item<int64_t>() > 0;
  }

  bool writes_experts() const { return mesh_.replica_group().rank() == 0; }

  /// False: it could not be written, which training survives once.
  bool save() {
    compare_replicas();
    json scalars = {{"position", position_.to_json()},
                    {"attempt", request_.attempt},
                    {"schedule", schedule_in_force()},
                    {"data", loader_->fingerprint()},
                    {"place", loader_->place_of(first_row())},
                    {"seed", request_.seed},
                    {"world", {{"ranks", world_.size()}, {"expert_parallel", mesh_.expert_parallel()}}}};
    scalars.update(request_.configuration);
    try {
      agree(world_, "write metrics", [&] {
        if (metrics_) metrics_->flush();
      });
      save_checkpoint(request_.job_path / "checkpoints", position_.step, request_.attempt, tensors(), scalars, world_,
                      writes_experts(), spec_.keep_checkpoints(), request_.checkpoints);
    } catch (const StorageError& error) {
      if (dynamic_cast<const AgreedError*>(&error) == nullptr) throw;
      if (request_.on_failed_save) request_.on_failed_save();
      if (++failed_saves_ == kMaxFailedSaves) {
        throw_agreed<StorageError>(concat(kMaxFailedSaves,
                                          " checkpoints in a row could not be written, the last one after step ",
                                          position_.step, ": ", error.what()));
      }
      if (world_.rank() == 0) {
        log_warning(concat("event=checkpoint_failed step=", position_.step, " reason=\"", error.what(),
                           "\"; training goes on, the next checkpoint is tried when it is due, and the one before "
                           "stays the one to resume from"));
      }
      return false;
    }
    failed_saves_ = 0;
    if (world_.rank() == 0) log_info(concat("event=checkpoint_saved step=", position_.step));
    return true;
  }

  void write_output() {
    ModelConfig config = decoder_->config();
    if (!chat_template_.empty()) config.source["chat_template_name"] = chat_template_;
    write_model(request_.output, request_.model, *decoder_, config, compute_type(request_.gang), world_,
                writes_experts(), jinja_);
  }

  std::vector<std::vector<int64_t>> summed_load() const {
    std::vector<std::vector<int64_t>> sum;
    for (const auto& load : recent_load_) {
      if (sum.empty()) sum.assign(load.size(), std::vector<int64_t>(load.front().size(), 0));
      for (size_t layer = 0; layer < load.size(); ++layer) {
        for (size_t expert = 0; expert < load[layer].size(); ++expert) sum[layer][expert] += load[layer][expert];
      }
    }
    return sum;
  }

  TrainOutcome outcome() {
    TrainOutcome result;
    result.details =
        json::parse(agree_on_result(world_, "training outcome", [this] { return told_by_the_log().dump(); }));
    for (const auto& [name, value] : result.details["metrics"].items()) {
      if (value.is_number()) result.metrics[name] = value;
    }
    result.details.erase("metrics");
    if (!earlier_schedules_.empty()) result.history = earlier_schedules_.dump();
    return result;
  }

  /// Rank 0: what metrics.jsonl says of the whole job, earlier attempts included.
  json told_by_the_log() {
    metrics_->flush();
    json first, last, curve = json::array(), validation = json::array();
    double tokens = 0, seconds = 0;
    for_each_json_line(metrics_->path(), [&](json&& line) {
      tokens += line["tokens_per_second"].get<double>() * line["step_seconds"].get<double>();
      seconds += line["step_seconds"].get<double>();
      curve.push_back({line["step"], line["loss"]});
      if (line.contains("validation"))
        validation.push_back(
            {{"step", line["step"]}, {"loss", line["validation_loss"]}, {"domains", line["validation"]}});
      line.erase("expert_load");
      if (first.is_null()) first = line;
      last = std::move(line);
    });
    if (last.is_null() || last["step"] != position_.step)
      throw StorageError(
          concat(metrics_->path().string(), " does not end with step ", position_.step, ": it was changed"));
    const std::vector<std::vector<int64_t>> load = summed_load();
    json metrics = {{"loss", last["loss"]},
                    {"loss_first", first["loss"]},
                    {"balance_loss", last["balance_loss"]},
                    {"steps", position_.step},
                    {"tokens", position_.tokens},
                    {"dead_expert_fraction", dead_expert_fraction(load)},
                    {"load_max_over_mean", load_max_over_mean(load)},
                    {"tokens_per_second", tokens / seconds}};
    if (last.contains("validation")) {
      metrics["validation_loss"] = last["validation_loss"];
      for (const auto& [domain, loss] : last["validation"].items()) metrics["validation_loss." + domain] = loss;
    }
    return {{"metrics", metrics}, {"curve", curve}, {"validation", validation}, {"expert_load", load}};
  }

  const TrainRequest& request_;
  const v1::TrainSpec& spec_;
  Communicator& world_;
  Mesh mesh_;
  LrSchedule schedule_;
  json earlier_schedules_ = json::array();  ///< [{until, steps, warmup_steps}] before `steps` was raised
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<DataLoader> loader_;
  std::unique_ptr<HeldOutData> held_out_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<MetricsLog> metrics_;
  std::string tokenizer_digest_;
  std::string chat_template_;  ///< name; empty: none that we know, and no chats
  std::string jinja_;          ///< text to write beside the model, where it has none or another
  Position position_;
  int failed_saves_ = 0;  ///< in a row
  std::vector<std::vector<std::vector<int64_t>>> recent_load_;
};

}  // namespace

std::optional<TrainOutcome> train(const TrainRequest& request, Communicator& world) {
  return Trainer(request, world).run();
}

}  // namespace moe
