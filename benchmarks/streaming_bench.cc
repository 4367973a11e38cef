// Converting and exporting a checkpoint that is larger than the memory they may use, against copying the same bytes to
// a new file and syncing it. Each runs in a process of its own, whose peak of resident memory (VmHWM, mapped files
// included) it reports; copies and our work take turns.
//
//   moe_streaming_bench [--layers N] [--rounds N]      MOE_BENCH_DIR: folder to work in (default: the temporary one)
//
// --layers 10 (default) is 4.1 GB; disk space for three times that is needed.

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "convert/converter.h"
#include "export/exporter.h"
#include "synthetic_model.h"

extern char** environ;

namespace moe {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kExperts = 8, kTopK = 2;

double seconds_of(const std::function<void()>& work) {
  const Clock::time_point start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

v1::ExportSpec export_to(const std::string& format) {
  v1::ExportSpec spec;
  spec.set_format(format);
  spec.set_dtype("source");
  spec.set_max_shard_bytes(5'000'000'000);
  spec.set_pad_experts_to(0);
  spec.set_allow_padding(false);
  spec.set_keep_tied(false);
  return spec;
}

double peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stod(line.substr(6)) * 1024;
  }
  throw Internal("/proc/self/status has no VmHWM");
}

/// One piece of work, as the child process: seconds and peak memory to `report`.
void work(const std::string& kind, const fs::path& source_path, const fs::path& output, const fs::path& report) {
  const auto world = make_self_communicator();
  const double seconds = seconds_of([&] {
    const ModelDirectory source(source_path);
    if (kind == "convert") {
      const v1::ConvertSpec spec = bench::slicing("sequential", kExperts, kTopK, "zero");
      const ModelText no_text;
      const ConvertRequest request{
          .spec = spec, .seed = 1, .source = source, .text = no_text, .output = output, .monitor = unwatched()};
      convert_model(request, *world);
    } else {
      export_model({.spec = export_to(kind), .source = source, .output = output, .monitor = unwatched()}, *world);
    }
  });
  std::ofstream(report) << seconds << " " << peak_memory_bytes() << "\n";
}

struct Outcome {
  double seconds = 0;
  double peak_bytes = 0;
};

Outcome run_child(const std::string& kind, const fs::path& source, const fs::path& output, const fs::path& report) {
  std::vector<std::string> words{"/proc/self/exe", "--work", kind, source.string(), output.string(), report.string()};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (posix_spawn(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0)
    throw HardwareError("cannot start a process");
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) throw Internal(concat("the process for `", kind, "` failed"));
  Outcome outcome;
  std::ifstream(report) >> outcome.seconds >> outcome.peak_bytes;
  return outcome;
}

uint64_t weight_bytes(const fs::path& model) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().extension() == ".safetensors" && entry.path().filename() != "conversion.safetensors")
      bytes += entry.file_size();
  }
  return bytes;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(int64_t layers, int rounds) : rounds_(rounds) {
    bench::write_synthetic_llama(folder_ / "dense", {"", layers, 4096, 11008, 32000});
    run_child("convert", folder_ / "dense", folder_ / "moe", folder_ / "report");
    std::cout << "| work | bytes in | ours (least, most) | copy (least, most) | copy / ours | peak memory "
                 "|\n|---|---|---|---|---|---|"
              << std::endl;
  }

  void row(const std::string& name, const std::string& kind, const fs::path& source) const {
    std::vector<double> ours, copies;
    double peak = 0;
    for (int round = 0; round < rounds_; ++round) {
      copies.push_back(copy(source));
      const Outcome outcome = run_child(kind, source, folder_ / "output", folder_ / "report");
      fs::remove_all(folder_ / "output");
      ours.push_back(outcome.seconds);
      peak = std::max(peak, outcome.peak_bytes);
    }
    const auto range = [](const std::vector<double>& values) {
      char text[96];
      std::snprintf(text, sizeof text, "%.1f s (%.1f s, %.1f s)", median(values),
                    *std::min_element(values.begin(), values.end()), *std::max_element(values.begin(), values.end()));
      return std::string(text);
    };
    std::printf("| %s | %.2f GB | %s | %s | %.2f | %.2f GB |\n", name.c_str(),
                static_cast<double>(weight_bytes(source)) / 1e9, range(ours).c_str(), range(copies).c_str(),
                median(copies) / median(ours), peak / 1e9);
    std::fflush(stdout);
  }

  fs::path dense() const { return folder_ / "dense"; }
  fs::path moe() const { return folder_ / "moe"; }

 private:
  fs::path copy_of(const fs::path& file) const { return folder_ / ("copy-" + file.filename().string()); }

  double copy(const fs::path& source) const {
    const double seconds = seconds_of([&] {
      for (const auto& entry : fs::directory_iterator(source)) {
        if (entry.path().extension() == ".safetensors") bench::copy_and_sync(entry.path(), copy_of(entry.path()));
      }
    });
    for (const auto& entry : fs::directory_iterator(source)) fs::remove(copy_of(entry.path()));
    return seconds;
  }

  int rounds_;
  bench::WorkFolder folder_;
};

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  if (argc == 6 && std::strcmp(argv[1], "--work") == 0) {
    moe::work(argv[2], argv[3], argv[4], argv[5]);
    return 0;
  }
  int64_t layers = 10;
  int rounds = 3;
  CLI::App app("Converting and exporting a large checkpoint against copying the same bytes");
  app.add_option("--layers", layers, "Layers of the model; 10 make 4.1 GB and need three times that on disk")
      ->capture_default_str()
      ->check(CLI::Range(1, 200));
  app.add_option("--rounds", rounds, "Rounds, copies and our work by turns")
      ->capture_default_str()
      ->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  const moe::Bench bench(layers, rounds);
  bench.row("convert: sequential, 8 experts", "convert", bench.dense());
  bench.row("export to mixtral", "mixtral", bench.moe());
  bench.row("export to native", "native", bench.moe());
  bench.row("export to dense", "dense", bench.moe());
  return 0;
}
