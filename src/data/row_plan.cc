#include "data/row_plan.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <sstream>
#include <utility>

#include "common/error.h"
#include "common/rng.h"
#include "data/packing.h"

namespace moe {
namespace {

/// Samples that are packed together: enough for full rows, few enough that a row does not wait for the end of an epoch.
constexpr int64_t kWindow = 4096;

std::string joined(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t number : numbers) text += (text.empty() ? "" : ",") + std::to_string(number);
  return text;
}

}  // namespace

std::string PlanCursor::to_text() const {
  return concat(row, " ", window, " ", joined(tokens), " ", joined(epoch), " ", joined(next));
}

PlanCursor PlanCursor::from_text(const std::string& text, size_t sources) {
  PlanCursor cursor;
  std::istringstream in(text);
  in >> cursor.row >> cursor.window;
  for (std::vector<int64_t>* list : {&cursor.tokens, &cursor.epoch, &cursor.next}) {
    char comma = ',';
    for (size_t s = 0; s < sources; ++s) {
      int64_t number = -1;
      if (s > 0) in >> comma;
      in >> number;
      if (!in || comma != ',' || number < 0)
        throw InvalidArgument(concat("'", text, "' is no place in a plan of ", sources, " files"));
      list->push_back(number);
    }
  }
  std::string rest;
  if (in >> rest || cursor.row < 0 || cursor.window < 0)
    throw InvalidArgument(concat("'", text, "' is no place in a plan of ", sources, " files"));
  return cursor;
}

RowPlan::RowPlan(std::vector<SampleSource> sources, RowPlanOptions options)
    : sources_(std::move(sources)), options_(options), source_order_(sources_.size()) {
  seek(beginning());
}

PlanCursor RowPlan::beginning() const {
  PlanCursor cursor;
  cursor.tokens.assign(sources_.size(), 0);
  cursor.epoch.assign(sources_.size(), 0);
  cursor.next.assign(sources_.size(), 0);
  return cursor;
}

void RowPlan::seek(const PlanCursor& cursor) {
  bool is_ours = cursor.tokens.size() == sources_.size() && cursor.epoch.size() == sources_.size() &&
                 cursor.next.size() == sources_.size();
  for (size_t s = 0; is_ours && s < sources_.size(); ++s) is_ours = cursor.next[s] <= sources_[s].documents();
  if (!is_ours) throw InvalidArgument(concat("the place '", cursor.to_text(), "' is not in this data"));
  held_.clear();
  next_ = cursor;
  keep_from_ = cursor.row;
  is_exhausted_ = false;
  for (size_t source = 0; source < sources_.size(); ++source) start_epoch(source);
}

/// The order of next_'s epoch.
void RowPlan::start_epoch(size_t source) {
  const int64_t count = sources_[source].documents();
  std::vector<int64_t>& order = source_order_[source];
  if (options_.shuffle) {
    const auto stream = static_cast<uint32_t>(source << 16 | (next_.epoch[source] & 0xffff));
    order = random_permutation(count, CounterRng(options_.seed, kStreamDataOrder, stream));
  } else {
    order.resize(count);
    std::iota(order.begin(), order.end(), int64_t{0});
  }
}

/// Which source gives the next document: training, the one furthest behind its share of tokens; without shuffle, file
/// after file. -1: the pass is over.
int64_t RowPlan::next_source() const {
  const auto count = static_cast<int64_t>(sources_.size());
  if (!options_.shuffle) {
    for (int64_t s = 0; s < count; ++s) {
      if (next_.next[s] < sources_[s].documents()) return s;
    }
    return -1;
  }
  const int64_t total = std::accumulate(next_.tokens.begin(), next_.tokens.end(), int64_t{0});
  double weights = 0;
  for (const SampleSource& source : sources_) weights += source.weight;
  int64_t best = -1;
  double largest = -1e300;
  for (int64_t s = 0; s < count; ++s) {
    if (options_.one_pass && next_.next[s] == sources_[s].documents()) continue;
    const double behind =
        sources_[s].weight / weights * static_cast<double>(total + 1) - static_cast<double>(next_.tokens[s]);
    if (behind > largest) {
      largest = behind;
      best = s;
    }
  }
  return best;
}

void RowPlan::plan_window() {
  Window planned{next_, {}};
  std::vector<Sample> window;
  while (static_cast<int64_t>(window.size()) < kWindow) {
    const int64_t s = next_source();
    if (s < 0) {
      is_exhausted_ = true;
      break;
    }
    const SampleSource& source = sources_[s];
    if (options_.shuffle && next_.next[s] == source.documents()) {
      ++next_.epoch[s];
      next_.next[s] = 0;
      start_epoch(s);
    }
    const int64_t document = source_order_[s][next_.next[s]++];
    for (int64_t i = source.document_begin[document]; i < source.document_begin[document + 1]; ++i) {
      window.push_back(source.samples[i]);
      next_.tokens[s] += source.samples[i].length;
    }
  }
  std::vector<int64_t> lengths;
  for (const Sample& sample : window) lengths.push_back(sample.length);
  const std::vector<std::vector<int64_t>> rows = pack_first_fit_decreasing(lengths, options_.row_length);
  std::vector<int64_t> order(rows.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  // Packing puts long samples into early rows; in training every stretch of rows shall be like every other.
  if (options_.shuffle) {
    const CounterRng rng(options_.seed, kStreamRowOrder, static_cast<uint32_t>(next_.window));
    order = random_permutation(static_cast<int64_t>(rows.size()), rng);
  }
  for (const int64_t row : order) {
    planned.rows.emplace_back();
    for (const int64_t i : rows[row]) planned.rows.back().push_back(window[i]);
  }
  ++next_.window;
  next_.row = planned.end();
  if (!planned.rows.empty()) held_.push_back(std::move(planned));
}

void RowPlan::drop_released() {
  while (!held_.empty() && held_.front().end() <= keep_from_) held_.pop_front();
}

void RowPlan::release_before(int64_t row) {
  keep_from_ = row;
  drop_released();
}

/// Makes the plan reach that row, if there is such a row.
void RowPlan::plan_to(int64_t row) {
  while (next_.row <= row && !is_exhausted_) {
    plan_window();
    drop_released();
  }
}

bool RowPlan::has_row(int64_t row) {
  keep_from_ = std::min(keep_from_, row);
  plan_to(row);
  return row < next_.row;
}

const std::vector<Sample>& RowPlan::row(int64_t row) {
  if (row < (held_.empty() ? next_.row : held_.front().begin.row)) {
    const int64_t keep_from = std::min(keep_from_, row);
    seek(beginning());
    keep_from_ = keep_from;
  }
  keep_from_ = std::min(keep_from_, row);
  plan_to(row);
  MOE_CHECK(row >= 0 && row < next_.row, "row ", row, " of ", next_.row);
  const auto after = std::upper_bound(held_.begin(), held_.end(), row,
                                      [](int64_t r, const Window& window) { return r < window.begin.row; });
  const Window& window = *std::prev(after);
  return window.rows[row - window.begin.row];
}

int64_t RowPlan::count() {
  MOE_CHECK(!options_.shuffle || options_.one_pass, "training rows have no end");
  if (count_ < 0) {
    const PlanCursor here = held_.empty() ? next_ : held_.front().begin;
    const int64_t keep_from = keep_from_;
    while (!is_exhausted_) {
      plan_window();
      held_.clear();
    }
    count_ = next_.row;
    seek(here);
    keep_from_ = keep_from;
  }
  return count_;
}

PlanCursor RowPlan::cursor(int64_t row) {
  if (row == next_.row) return next_;
  this->row(row);
  const auto after = std::upper_bound(held_.begin(), held_.end(), row,
                                      [](int64_t r, const Window& window) { return r < window.begin.row; });
  return std::prev(after)->begin;
}

int64_t RowPlan::held_rows() const {
  int64_t rows = 0;
  for (const Window& window : held_) rows += static_cast<int64_t>(window.rows.size());
  return rows;
}

}  // namespace moe
