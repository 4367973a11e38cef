#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

/// Which samples share which row: the plan that makes row i the same on every rank and after every resume. It is made
/// window by window, a few thousand samples at a time, and forgotten the same way: what is held does not grow with the
/// rows that were given. A window follows from a small Cursor, so that a run resumes without planning what came before.
namespace moe {

/// `length` inputs of one document and their labels: what attention sees as one sequence. The label of an input is the
/// token that follows it in the document, also across a cut.
struct Sample {
  int64_t first = 0;    ///< index of its first input in the token store
  int64_t length = 0;   ///< inputs
  int64_t targets = 0;  ///< labels that are not masked
  int32_t domain = 0;
};

/// One file's samples; a document that was cut is several in a row, kept together in the order of documents.
struct SampleSource {
  double weight = 1;
  std::vector<Sample> samples;
  std::vector<int64_t> document_begin{0};  ///< [documents + 1]: samples of each document

  int64_t documents() const { return static_cast<int64_t>(document_begin.size()) - 1; }
};

struct RowPlanOptions {
  int64_t row_length = 512;  ///< tokens
  uint64_t seed = 0;
  bool shuffle =
      true;  ///< rows go on for ever, epoch after epoch, sources by their weights; false: one pass, in file order
  bool one_pass = false;  ///< with shuffle: sources by their weights until every document was given once
};

/// Where a window begins. Every field is a count, so it is as good on any other machine.
struct PlanCursor {
  int64_t row = 0;     ///< first of the window
  int64_t window = 0;  ///< windows before it
  // Of each source: tokens given, epoch, and the place in the epoch's order of documents.
  std::vector<int64_t> tokens, epoch, next;

  /// "12 3 4096,1024 1,0 17,300": row, window, and the three lists.
  std::string to_text() const;
  /// Throws InvalidArgument unless the text is one of to_text for this many sources.
  static PlanCursor from_text(const std::string& text, size_t sources);
};

class RowPlan {
 public:
  RowPlan(std::vector<SampleSource> sources, RowPlanOptions options);

  /// The samples of a row. Valid until the next call. Throws Internal if there is no such row. A row before the ones
  /// that are held costs planning from the beginning.
  const std::vector<Sample>& row(int64_t row);

  /// Rows of one pass (not where rows go on for ever).
  int64_t count();
  bool has_row(int64_t row);

  /// Rows before this one are not asked for soon: they need not be held.
  void release_before(int64_t row);

  /// Of the window that holds this row.
  PlanCursor cursor(int64_t row);
  /// Goes there. Throws InvalidArgument if the cursor is not of these sources.
  void seek(const PlanCursor& cursor);

  int64_t held_rows() const;
  const std::vector<SampleSource>& sources() const { return sources_; }

 private:
  struct Window {
    PlanCursor begin;
    std::vector<std::vector<Sample>> rows;
    int64_t end() const { return begin.row + static_cast<int64_t>(rows.size()); }
  };

  PlanCursor beginning() const;
  void start_epoch(size_t source);
  int64_t next_source() const;
  void plan_window();
  void plan_to(int64_t row);
  void drop_released();

  std::vector<SampleSource> sources_;
  RowPlanOptions options_;
  std::deque<Window> held_;
  int64_t keep_from_ = 0;
  PlanCursor next_;                                 ///< where the next window begins
  std::vector<std::vector<int64_t>> source_order_;  ///< of next_'s epochs
  bool is_exhausted_ = false;                       ///< one pass is over
  int64_t count_ = -1;                              ///< of one pass, once known
};

}  // namespace moe
