#pragma once

#include <functional>
#include <map>
#include <string>

/// The harness of every benchmark: checks the answer first, warms up, then measures ours and the peer in turns, so that
/// a neighbour's load hits both alike, and prints one row of a Markdown table per case. One thread calls it.
namespace moe::bench {

/// One thing to measure, done by us and by a peer.
struct Case {
  std::string name;
  std::string dtype;           // float32, bfloat16 or float64: which measured peak the share refers to
  std::function<void()> ours;  // one repetition each
  std::function<void()> peer;  // may be empty: nothing to compare with
  /// Largest error of ours against the peer, after each ran once, in units that `max_error` limits.
  std::function<double()> error;
  double max_error = 0;
  double flops = 0;  // per repetition; 0: the row has no GFLOP/s
  double bytes = 0;  // read and written at least; 0: the row has no GB/s
};

/// Runs `work` as main() does: its exit code, or that of what it threw (64 for a UsageError, 70 else), whose message is
/// printed.
int run_main(const std::function<int()>& work);

/// Command line: [--help] [--threads N] [--seconds S] [--filter TEXT]: OpenMP threads (default: OMP_NUM_THREADS, or
/// all), seconds of measuring per case (0.5), and the text that the names of cases to run hold.
class Runner {
 public:
  /// Prints what is measured and on which processor, and the table's head; --help: the flags, and ends the process.
  /// Throws UsageError.
  Runner(const std::string& title, const std::string& peer, int argc, const char* const* argv);

  int threads() const { return threads_; }

  /// Whether `--filter` lets this name through: to spare making a large case that will not run.
  bool is_wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  /// Measures the case and prints its row at once: median, p10 and p90 of ours, the peer's median, peer/ours by wall
  /// time and by CPU time (above 1: ours is faster), GFLOP/s or GB/s, and the share of the machine's peak: the best
  /// rate of a matrix product of 1536 cubed in the same dtype on the same threads, measured by this run.
  void run(const Case& c);

  /// The exit code: 1 if an answer was wrong (that row says so and has no times).
  int finish() const { return wrong_answers_ > 0 ? 1 : 0; }

 private:
  double peak_flops(const std::string& dtype);

  int threads_ = 1;
  double seconds_per_case_ = 0.5;
  std::string filter_;
  int wrong_answers_ = 0;
  std::map<std::string, double> peaks_;  // FLOP/s by dtype, measured at first use
};

}  // namespace moe::bench
