#include "bench.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <vector>

#include "common/error.h"
#include "help.h"
#include "kernels/matmul.h"

namespace moe::bench {
namespace {

/// A sample lasts at least this long, by repeating the call, so that the clock's own cost does not show.
constexpr double kSampleSeconds = 1e-3;
constexpr int kMinSamples = 11;

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Of all threads of the process.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Seconds per repetition, one entry per sample.
struct Samples {
  std::vector<double> wall, cpu;
};

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

void sample(const std::function<void()>& call, int repetitions, Samples& samples) {
  const double wall = wall_seconds(), cpu = cpu_seconds();
  for (int i = 0; i < repetitions; ++i) {
    call();
  }
  samples.wall.push_back((wall_seconds() - wall) / repetitions);
  samples.cpu.push_back((cpu_seconds() - cpu) / repetitions);
}

/// Repetitions that make up a sample; the call is warm after this.
int calibrate(const std::function<void()>& call) {
  for (int repetitions = 1;; repetitions *= 2) {
    const double start = wall_seconds();
    for (int i = 0; i < repetitions; ++i) {
      call();
    }
    if (wall_seconds() - start >= kSampleSeconds) {
      return repetitions;
    }
  }
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      return line.substr(line.find(':') + 2);
    }
  }
  return "unknown processor";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof(text), "%Y-%m-%d", &utc);
  return text;
}

kernels::DType dtype_of(const std::string& name) {
  if (name == "float32") return kernels::DType::kFloat32;
  if (name == "bfloat16") return kernels::DType::kBFloat16;
  if (name == "float64") return kernels::DType::kFloat64;
  throw InvalidArgument("benchmark of dtype " + name + "; expected float32, bfloat16 or float64");
}

/// A time with three digits and its unit.
std::string duration(double seconds) {
  char text[32];
  const bool is_short = seconds < 1e-3;
  std::snprintf(text, sizeof(text), "%.3g %s", seconds * (is_short ? 1e6 : 1e3), is_short ? "us" : "ms");
  return text;
}

std::string number(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

}  // namespace

int run_main(const std::function<int()>& work) {
  try {
    return work();
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 64;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 70;
  }
}

Runner::Runner(const std::string& title, const std::string& peer, int argc, const char* const* argv)
    : threads_(omp_get_max_threads()) {
  const std::string usage = concat("usage: ", argv[0], " [--threads N] [--seconds S] [--filter TEXT]");
  if (is_help_wanted(argc, argv)) {
    std::printf(
        "%s against %s\n%s\n"
        "  --threads N    OpenMP threads (OMP_NUM_THREADS, or all)\n"
        "  --seconds S    seconds of measuring for each case (0.5)\n"
        "  --filter TEXT  only cases whose name holds TEXT\n",
        title.c_str(), peer.c_str(), usage.c_str());
    std::exit(0);
  }
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc || (flag != "--threads" && flag != "--seconds" && flag != "--filter")) {
      throw UsageError(concat("cannot use ", flag, "; ", usage));
    }
    const std::string value = argv[i + 1];
    try {
      if (flag == "--threads") threads_ = std::stoi(value);
      if (flag == "--seconds") seconds_per_case_ = std::stod(value);
    } catch (const std::exception&) {
      throw UsageError(concat(flag, " ", value, " is not a number"));
    }
    if (flag == "--filter") filter_ = value;
  }
  if (threads_ < 1) {
    throw UsageError(concat("--threads ", threads_, "; expected 1 or more"));
  }
  omp_set_num_threads(threads_);
  std::printf("%s against %s; %s, %s, %d thread%s\n\n", title.c_str(), peer.c_str(), today().c_str(),
              processor().c_str(), threads_, threads_ == 1 ? "" : "s");
  std::printf("| case | dtype | ours (p10, p90) | peer | peer / ours | by CPU time | rate | of peak |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
}

double Runner::peak_flops(const std::string& dtype) {
  if (const auto found = peaks_.find(dtype); found != peaks_.end()) {
    return found->second;
  }
  constexpr int64_t kSize = 1536;
  const kernels::DType type = dtype_of(dtype);
  const size_t bytes = static_cast<size_t>(kSize * kSize * kernels::dtype_size(type));
  std::vector<char> x(bytes), weight(bytes), y(bytes);
  const auto view = [type](std::vector<char>& memory) {
    return kernels::MatrixView{memory.data(), type, kSize, kSize, kSize};
  };
  const auto multiply = [&] { kernels::linear_input_gradient(view(x), view(weight), view(y)); };
  multiply();
  Samples samples;
  const double start = wall_seconds();
  while (samples.wall.size() < 5 || wall_seconds() - start < seconds_per_case_) {
    sample(multiply, 1, samples);
  }
  const double best = *std::min_element(samples.wall.begin(), samples.wall.end());
  return peaks_[dtype] = 2.0 * kSize * kSize * kSize / best;
}

void Runner::run(const Case& c) {
  if (!is_wanted(c.name)) {
    return;
  }
  c.ours();
  if (c.peer) {
    c.peer();
  }
  if (c.error) {
    if (const double error = c.error(); !(error <= c.max_error)) {
      ++wrong_answers_;
      std::printf("| %s | %s | WRONG ANSWER: error %.3g, at most %.3g | | | | | |\n", c.name.c_str(), c.dtype.c_str(),
                  error, c.max_error);
      return;
    }
  }
  const int repetitions = calibrate(c.ours);
  const int peer_repetitions = c.peer ? calibrate(c.peer) : 0;
  Samples ours, peer;
  const double start = wall_seconds();
  while (ours.wall.size() < kMinSamples || wall_seconds() - start < seconds_per_case_) {
    sample(c.ours, repetitions, ours);
    if (c.peer) {
      sample(c.peer, peer_repetitions, peer);
    }
  }
  const double median = quantile(ours.wall, 0.5);
  std::string row = concat("| ", c.name, " | ", c.dtype, " | ", duration(median), " (",
                           duration(quantile(ours.wall, 0.1)), ", ", duration(quantile(ours.wall, 0.9)), ") | ");
  if (c.peer) {
    row += concat(duration(quantile(peer.wall, 0.5)), " | ", number("%.2f", quantile(peer.wall, 0.5) / median), " | ",
                  number("%.2f", quantile(peer.cpu, 0.5) / quantile(ours.cpu, 0.5)), " | ");
  } else {
    row += "| | | ";
  }
  if (c.flops > 0) {
    row += concat(number("%.0f GFLOP/s", c.flops / median * 1e-9), " | ",
                  number("%.0f %%", 100 * c.flops / median / peak_flops(c.dtype)), " |");
  } else if (c.bytes > 0) {
    row += concat(number("%.1f GB/s", c.bytes / median * 1e-9), " | |");
  } else {
    row += "| |";
  }
  std::printf("%s\n", row.c_str());
  std::fflush(stdout);
}

}  // namespace moe::bench
