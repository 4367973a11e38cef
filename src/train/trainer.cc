#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>

#include "checkpoint/checkpointer.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/json_lines.h"
#include "common/log.h"
#include "common/memory_reuse.h"
#include "common/step_record.h"
#include "common/version.h"
#include "parallel/gradient_sync.h"
#include "parallel/replicas.h"
#include "train/checkpoint_saver.h"
#include "train/lr_schedule.h"
#include "train/metrics_log.h"
#include "train/optimizer.h"
#include "train/training_state.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int kMaxBadSteps = 3;

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

/// Adds what a recipe tells to what the loop tells, under names of its own.
void add_own(json& all, const json& own) {
  for (const auto& [name, value] : own.items()) {
    MOE_CHECK(!all.contains(name), "'", name, "' is the loop's, not the recipe's");
    all[name] = value;
  }
}

class Trainer {
 public:
  Trainer(const TrainRequest& request, Communicator& world)
      : request_(request),
        spec_(request.spec),
        world_(world),
        mesh_(world, request.gang.expert_parallel()),
        schedule_{spec_.learning_rate(), spec_.learning_rate_floor(), spec_.warmup_steps(), spec_.steps()},
        saver_(request, world, [this] {
          if (metrics_) metrics_->flush();
        }) {}

  std::optional<TrainOutcome> run() {
    keep_freed_memory();
    recipe_ = request_.recipe(request_, mesh_);
    prepare();
    compare_ranks();
    resume();
    while (position_.step < spec_.steps()) {
      StepRecord record = step();
      const bool is_last = position_.step == spec_.steps();
      if (is_due(spec_.validate_every()) || is_last) validate(record);
      if (metrics_) metrics_->write(json_line(record));  // throws nothing that the others would have to know
      request_.monitor.record(record);
      const bool stop = stop_requested();
      if (is_last) break;
      if (stop || is_due(spec_.checkpoint_every())) {
        // Who is asked to leave and cannot save trains on, and tries again after the next step.
        if (save(stop) && stop) return std::nullopt;
      } else {
        saver_.poll();
      }
    }
    saver_.finish();
    compare_replicas();
    recipe_->write_output();
    return outcome();
  }

 private:
  void prepare() {
    TrainedParameters& trained = recipe_->parameters();
    require_gradients(trained);
    optimizer_ = std::make_unique<AdamW>(
        trained.all, AdamWOptions{spec_.beta1(), spec_.beta2(), spec_.epsilon(), spec_.weight_decay()}, trained.groups);
  }

  std::vector<Parameter>& parameters() { return recipe_->parameters().all; }

  /// The tensors of a checkpoint.
  std::vector<TensorRange> tensors() {
    std::vector<TensorRange> ranges = training_state(parameters(), *optimizer_, mesh_);
    for (TensorRange& own : recipe_->state_tensors()) ranges.push_back(std::move(own));
    return ranges;
  }

  void resume() {
    const auto scalars = load_newest_checkpoint(request_.checkpoints_path(), tensors(), world_, request_.checkpoints);
    if (scalars) go_on_from(*scalars);
    if (scalars && world_.size() > 1) require_same_files(world_, "read a checkpoint", hashed_weights());
    agree(world_, "open metrics", [&] {
      if (world_.rank() != 0) return;
      const int from = scalars ? scalars->value("attempt", 0) : 0;
      metrics_ =
          std::make_unique<MetricsLog>(request_.job_path / "attempts", request_.attempt_path, position_.step, from);
    });
  }

  void go_on_from(const json& scalars) {
    position_ = Position::from_json(scalars.at("position"));
    recipe_->restore(scalars);
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
    if (world_.rank() == 0) log_info(concat("event=resumed step=", position_.step, change));
  }

  /// Steps and warm-up may have been others, peak and floor not: the configurations were compared, and this is what was
  /// really in force.
  void require_same_height(const json& begun) const {
    const double peak = begun.at("peak"), floor = begun.at("floor");
    if (peak == schedule_.peak && floor == schedule_.floor) return;
    throw_agreed<InvalidArgument>(
        concat("the checkpoint of step ", position_.step, " in ", request_.checkpoints_path().string(),
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

  /// Files that differ between nodes would train on in silence: every rank its own. (Models are compared where they are
  /// loaded.)
  void compare_ranks() {
    const std::map<std::string, std::string> files = recipe_->data_digests();
    if (world_.size() > 1) {
      std::map<std::string, std::string> facts;
      agree(world_, "read fingerprints", [&] {
        facts = files;
        facts["effective config"] =
            xxh3_hex(concat(spec_.SerializeAsString(), request_.gang.SerializeAsString(), request_.seed));
        facts["moe-worker"] = kVersion;
      });
      require_same_files(world_, "before the first step", facts);
    }
    request_.monitor.data_read(files);
  }

  /// Hashing takes long: the others wait here, not in the collective that compares.
  std::map<std::string, std::string> hashed_weights() {
    std::map<std::string, std::string> digests;
    agree(world_, "hash weights", [&] { digests = replica_digests(parameters()); });
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

  bool is_due(int64_t every) const { return every > 0 && position_.step % every == 0; }

  StepRecord step() {
    const auto started = std::chrono::steady_clock::now();
    optimizer_->zero_gradients();
    const RecipeStep done = recipe_->step(position_.step);
    for (const auto& [name, value] : done.statistics)
      MOE_CHECK(is_free_name(name), "the statistic '", name, "' has the name of a number of the loop's");
    sum_gradients(parameters(), mesh_);
    const double norm = global_gradient_norm(parameters(), mesh_);
    ++position_.step;
    position_.tokens += done.tokens;
    const double rate = learning_rate(schedule_, position_.step);
    const bool is_finite = std::isfinite(done.loss) && std::isfinite(norm);
    if (is_finite) {
      const double clip = spec_.clip_norm() > 0 ? std::min(1.0, spec_.clip_norm() / (norm + 1e-6)) : 1.0;
      optimizer_->update(rate, clip, ++position_.updates, recipe_->missed_updates());
      recipe_->after_update();
      position_.bad_steps = 0;
    } else {
      skip(done.loss, norm);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return {.step = position_.step,
            .steps = spec_.steps(),
            .loss = done.loss,
            .total_loss = done.total_loss,
            .gradient_norm = norm,
            .learning_rate = rate,
            .tokens = position_.tokens,
            .step_tokens = done.tokens,
            .seconds = seconds,
            .skipped = !is_finite,
            .expert_load = done.expert_load,
            .attention_expert_load = done.attention_expert_load,
            .validation_loss = {},
            .validation = {},
            .statistics = done.statistics};
  }

  void validate(StepRecord& record) {
    const std::optional<Validation> validation = recipe_->validate();
    if (!validation) return;
    record.validation_loss = validation->loss;
    record.validation = validation->domains;
    record.expert_vitality = validation->expert_vitality;
    record.statistics.insert(validation->statistics.begin(), validation->statistics.end());
  }

  /// Every rank saw the same numbers, so all skip, and all give up, together.
  void skip(double loss, double norm) {
    ++position_.bad_steps;
    if (world_.rank() == 0) {
      log_warning(concat("event=step_skipped step=", position_.step, " loss=", loss, " gradient_norm=", norm));
    }
    if (position_.bad_steps < kMaxBadSteps) return;
    saver_.finish();  // of before: whoever mends the learning rate goes on from it
    throw_agreed<Diverged>(concat("training diverged: ", kMaxBadSteps, " steps in a row up to step ", position_.step,
                                  " gave no finite loss or gradient (loss ", loss, ", gradient norm ", norm,
                                  "); lower learning_rate ", spec_.learning_rate(), " or clip_norm ",
                                  spec_.clip_norm()));
  }

  bool stop_requested() { return any_rank(world_, "stop votes", request_.monitor.should_stop()); }

  /// Has what is now saved: before it leaves if it is to stop, else beside the next steps. False: it could not be.
  bool save(bool is_stopping) {
    // Of before, whatever the weights are now. An outage that it met counts once: the one of now is not tried as well.
    if (!(is_stopping ? saver_.settle() : saver_.finish())) return false;
    compare_replicas();
    json scalars = {{"position", position_.to_json()},
                    {"attempt", request_.attempt},
                    {"schedule", schedule_in_force()},
                    {"seed", request_.seed},
                    {"world", {{"ranks", world_.size()}, {"expert_parallel", mesh_.expert_parallel()}}}};
    add_own(scalars, recipe_->state(position_.step));
    scalars.update(request_.configuration);
    return is_stopping ? saver_.save(position_.step, tensors(), scalars)
                       : saver_.begin(position_.step, tensors(), scalars);
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
    const std::unique_ptr<RunSummary> summary = recipe_->summary();
    json first_loss, last_loss, last_step, curve = json::array();
    double tokens = 0, seconds = 0;
    for_each_json_line(metrics_->path(), [&](json&& line) {
      tokens += line["tokens_per_second"].get<double>() * line["step_seconds"].get<double>();
      seconds += line["step_seconds"].get<double>();
      if (curve.empty()) first_loss = line["loss"];
      last_step = line["step"];
      last_loss = line["loss"];
      curve.push_back({last_step, last_loss});
      summary->add(line);
    });
    if (last_step != position_.step)
      throw StorageError(
          concat(metrics_->path().string(), " does not end with step ", position_.step, ": it was changed"));
    json details = {{"curve", curve}};
    json metrics = {{"loss", last_loss},
                    {"loss_first", first_loss},
                    {"steps", position_.step},
                    {"tokens", position_.tokens},
                    {"tokens_per_second", tokens / seconds}};
    summary->finish(metrics, details);
    details["metrics"] = metrics;
    return details;
  }

  const TrainRequest& request_;
  const v1::TrainSpec& spec_;
  Communicator& world_;
  Mesh mesh_;
  LrSchedule schedule_;
  json earlier_schedules_ = json::array();  ///< [{until, steps, warmup_steps}] before `steps` was raised
  std::unique_ptr<Recipe> recipe_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<MetricsLog> metrics_;
  Position position_;
  CheckpointSaver saver_;
};

}  // namespace

std::optional<TrainOutcome> train(const TrainRequest& request, Communicator& world) {
  return Trainer(request, world).run();
}

}  // namespace moe
