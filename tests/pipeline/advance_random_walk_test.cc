#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/rng.h"
#include "pipeline/advance.h"

// The engine against a model of it that is written as rules over sets of names and is applied until nothing changes.
// The model knows a pipeline only as a list of (name, is gate, needs) and compares numbers by itself.
namespace moe {
namespace {

struct Rule {
  std::string name;
  bool is_gate = false;
  std::set<std::string> needs;
  std::string metric, op, on_fail;
  double threshold = 0;
};

struct Model {
  std::vector<Rule> rules;
  std::map<std::string, std::string> status;  // of stages and gates, in the engine's words
  std::map<std::string, std::map<std::string, double>> metrics;
  bool started = false, paused = false;
  std::string end;

  std::string phase() const {
    if (!end.empty()) return end;
    if (paused) return "PAUSED";
    for (const auto& [name, word] : status) {
      if (word == "HELD") return "HELD";
    }
    return "RUNNING";
  }

  bool done(const std::string& name) const { return status.at(name) == "SUCCEEDED" || status.at(name) == "SKIPPED"; }

  const Rule* rule(const std::string& name, bool is_gate) const {
    for (const Rule& r : rules) {
      if (r.name == name && r.is_gate == is_gate) return &r;
    }
    return nullptr;
  }

  bool compares(const Rule& r) const {
    const auto& measured = metrics.at(*r.needs.begin());
    if (!measured.contains(r.metric)) return false;
    const double v = measured.at(r.metric), t = r.threshold;
    return (r.op == "<" && v < t) || (r.op == "<=" && v <= t) || (r.op == ">" && v > t) || (r.op == ">=" && v >= t) ||
           (r.op == "==" && v == t);
  }

  // One step of the first rule that applies, as the action it causes; "" if none applies.
  std::string apply_one() {
    if (!started || paused || !end.empty()) return "";
    bool all_done = true;
    for (size_t i = 0; i < rules.size(); ++i) {
      const Rule& r = rules[i];
      const std::string& word = status[r.name];
      bool open = true;
      for (size_t j = 0; j < i; ++j) {
        if (rules[j].is_gate && !std::set<std::string>{"PASSED", "WARNED", "APPROVED"}.contains(status[rules[j].name]))
          open = false;
      }
      for (const std::string& need : r.needs) open = open && done(need);
      if (open && word == "PENDING" && !r.is_gate) {
        status[r.name] = "READY";
        return "start " + r.name;
      }
      if (open && word == "PENDING" && r.is_gate) {
        if (compares(r)) {
          status[r.name] = "PASSED";
          return "note " + r.name;
        }
        if (r.on_fail == "WARN") {
          status[r.name] = "WARNED";
          return "note " + r.name;
        }
        status[r.name] = r.on_fail == "FAIL" ? "FAILED" : "HELD";
        if (r.on_fail == "FAIL") end = "FAILED";
        return r.on_fail == "FAIL" ? "finish FAILED" : "hold " + r.name;
      }
      all_done = all_done && (r.is_gate ? word != "PENDING" && word != "HELD" : done(r.name));
    }
    if (!all_done) return "";
    end = "SUCCEEDED";
    return "finish SUCCEEDED";
  }

  // The actions, or nothing if the event is refused.
  std::optional<std::vector<std::string>> handle(const Event& event) {
    std::vector<std::string> actions;
    const auto finish = [&](const std::string& word) {
      end = word;
      actions.push_back("finish " + word);
    };
    if (std::holds_alternative<Start>(event)) {
      if (started || !end.empty()) return std::nullopt;
      started = true;
    } else if (const auto* e = std::get_if<StageStarted>(&event)) {
      if (rule(e->name, false) == nullptr || status[e->name] != "READY") return std::nullopt;
      status[e->name] = "RUNNING";
    } else if (const auto* s = std::get_if<StageSucceeded>(&event)) {
      if (rule(s->name, false) == nullptr || (status[s->name] != "READY" && status[s->name] != "RUNNING"))
        return std::nullopt;
      status[s->name] = s->already_done ? "SKIPPED" : "SUCCEEDED";
      metrics[s->name] = s->metrics;
    } else if (const auto* f = std::get_if<StageFailed>(&event)) {
      if (rule(f->name, false) == nullptr) return std::nullopt;
      const std::string word = status[f->name];
      if (word != "READY" && word != "RUNNING" && !(word == "PENDING" && f->permanent)) return std::nullopt;
      status[f->name] = f->permanent ? "FAILED" : "PENDING";
      if (f->permanent && end.empty()) finish("FAILED");
    } else if (const auto* t = std::get_if<StageRetried>(&event)) {
      if (rule(t->name, false) == nullptr || status[t->name] != "FAILED") return std::nullopt;
      if (!end.empty() && end != "FAILED") return std::nullopt;
      status[t->name] = "READY";
      if (end == "FAILED") paused = false;
      end.clear();
    } else if (const auto* a = std::get_if<Approve>(&event)) {
      if (rule(a->gate, true) == nullptr || status[a->gate] != "HELD" || !end.empty()) return std::nullopt;
      status[a->gate] = "APPROVED";
    } else if (const auto* r = std::get_if<Reject>(&event)) {
      if (rule(r->gate, true) == nullptr || status[r->gate] != "HELD" || !end.empty()) return std::nullopt;
      status[r->gate] = "FAILED";
      finish("FAILED");
    } else if (std::holds_alternative<Cancel>(event)) {
      if (!end.empty()) return std::nullopt;
      finish("CANCELED");
    } else if (std::holds_alternative<Pause>(event)) {
      if (!started || paused || !end.empty()) return std::nullopt;
      paused = true;
    } else {
      if (!paused || !end.empty()) return std::nullopt;
      paused = false;
    }
    for (std::string action = apply_one(); !action.empty(); action = apply_one()) actions.push_back(action);
    if (started && phase() == "RUNNING") {
      bool works = false, failed = false;
      for (const auto& [name, word] : status) {
        works = works || word == "READY" || word == "RUNNING";
        failed = failed || word == "FAILED";
      }
      if (failed && !works) finish("FAILED");
    }
    return actions;
  }
};

// Up to eight stages and gates with random needs.
std::pair<v1::PipelineSpec, Model> random_pipeline(CounterRng& rng) {
  v1::PipelineSpec spec;
  Model model;
  std::vector<std::string> models, jobs;
  const auto entries = 1 + rng.below(8);
  for (uint64_t i = 0; i < entries; ++i) {
    v1::Stage& stage = *spec.add_stages();
    Rule rule;
    rule.name = std::string(1, static_cast<char>('a' + i));
    const auto kind = rng.below(jobs.empty() ? 3 : 5);
    const bool from_stage = !models.empty() && rng.below(4) > 0;
    const std::string source = from_stage ? models[rng.below(models.size())] : "";
    const std::string input = from_stage ? source + ".model" : "./dense";
    if (kind >= 3) {
      rule.is_gate = true;
      const std::string job = jobs[rng.below(jobs.size())];
      rule.needs = {job};
      rule.metric = rng.below(2) == 0 ? "loss" : "loss.x";
      rule.op = std::vector<std::string>{"<", "<=", ">", ">=", "=="}[rng.below(5)];
      rule.on_fail = std::vector<std::string>{"HOLD", "HOLD", "WARN", "FAIL"}[rng.below(4)];
      rule.threshold = static_cast<double>(rng.below(3));
      v1::GateSpec& gate = *stage.mutable_gate();
      gate.set_name(rule.name);
      gate.set_metric(job + "." + rule.metric);
      gate.set_op(rule.op);
      gate.set_value(rule.threshold);
      gate.set_on_fail(rule.on_fail);
    } else {
      stage.set_name(rule.name);
      if (from_stage) rule.needs.insert(source);
      if (kind == 0) stage.mutable_convert()->set_input(input);
      if (kind == 1) stage.mutable_train()->set_input(input);
      if (kind == 2) {
        stage.mutable_evaluate()->set_input(input);
        if (!models.empty() && rng.below(2) == 0) {
          const std::string baseline = models[rng.below(models.size())];
          stage.mutable_evaluate()->set_baseline(baseline + ".model");
          rule.needs.insert(baseline);
        }
      }
      if (kind != 2) models.push_back(rule.name);
      jobs.push_back(rule.name);
    }
    model.status[rule.name] = "PENDING";
    model.rules.push_back(std::move(rule));
  }
  return {spec, model};
}

Event random_event(const Model& model, CounterRng& rng) {
  // Mostly a name that something can happen to, now and then one that does not exist.
  std::vector<std::string> live;
  for (const auto& [name, word] : model.status) {
    if (word == "READY" || word == "RUNNING" || word == "HELD" || word == "FAILED") live.push_back(name);
  }
  const auto pick = rng.below(model.rules.size() + 1);
  const std::string any = pick < model.rules.size() ? model.rules[pick].name : "nobody";
  const std::string name = live.empty() || rng.below(4) == 0 ? any : live[rng.below(live.size())];
  const auto kind = rng.below(44);
  if (kind < 4) return Start{};
  if (kind < 10) return StageStarted{name};
  if (kind < 28) {
    Metrics metrics;
    for (const char* metric : {"loss", "loss.x"}) {
      const auto value = rng.below(5);
      if (value < 3) metrics[metric] = static_cast<double>(value);
      if (value == 3) metrics[metric] = std::numeric_limits<double>::quiet_NaN();
    }
    return StageSucceeded{name, metrics, rng.below(3) == 0};
  }
  if (kind < 30) return StageFailed{name, "broken", rng.below(4) == 0};
  if (kind < 34) return Approve{name};
  if (kind < 35) return Reject{name};
  if (kind < 37) return Pause{};
  if (kind < 39) return Resume{};
  if (kind >= 40) return StageRetried{name};
  return rng.below(4) == 0 ? Event(Cancel{}) : Event(Start{});
}

std::string text_of(const Action& action) {
  if (const auto* start = std::get_if<StartStage>(&action)) return "start " + start->name;
  if (const auto* note = std::get_if<GateNote>(&action)) return "note " + note->gate;
  if (const auto* hold = std::get_if<Hold>(&action)) return "hold " + hold->gate;
  return std::string("finish ") + to_string(std::get<Finish>(action).phase);
}

TEST(AdvanceRandomWalkTest, AgreesWithTheModelOver100000Events) {
  constexpr uint64_t kSeed = 20261124;
  constexpr int kEvents = 100000;
  CounterRng rng(kSeed, kStreamTest);
  int events = 0, walks = 0, refused = 0, differences = 0;
  std::map<std::string, int> ends;
  while (events < kEvents) {
    auto [spec, model] = random_pipeline(rng);
    PipelineState state = make_pipeline_state(spec);
    ++walks;
    // A few events past the end too.
    for (int past_end = 0, n = 0; past_end < 4 && n < 200 && events < kEvents; ++n, ++events) {
      const Event event = random_event(model, rng);
      std::optional<std::vector<std::string>> actual{std::in_place};
      try {
        for (const Action& action : advance(state, event)) actual->push_back(text_of(action));
      } catch (const InvalidArgument&) {
        actual.reset();
        ++refused;
      }
      const auto expected = model.handle(event);
      bool same = actual == expected && to_string(state.phase) == model.phase();
      for (const StageState& stage : state.stages) {
        same =
            same && model.status[stage.name] == (stage.gate ? to_string(stage.gate_status) : to_string(stage.status));
      }
      if (!same) ++differences;
      past_end += model.end.empty() ? 0 : 1;
    }
    ++ends[model.phase()];
  }
  std::cout << "seed " << kSeed << ": " << events << " events in " << walks << " walks, " << refused << " refused, "
            << differences << " differences; ends:";
  for (const auto& [end, count] : ends) std::cout << " " << end << " " << count;
  std::cout << "\n";
  EXPECT_EQ(differences, 0);
  for (const char* end : {"SUCCEEDED", "FAILED", "CANCELED"}) EXPECT_GT(ends[end], 50) << end;
  EXPECT_GT(refused, kEvents / 10);
}

}  // namespace
}  // namespace moe
