// What a conversion that is calibrated costs, by method: seconds and peak of resident memory (VmHWM, mapped files
// included) on a bf16 stack of LLaMA-3-8B's layers, each in a process of its own.
//
//   moe_calibration_bench [--layers N] [--tokens N] [METHOD...]     MOE_BENCH_DIR: folder to work in
//
// 4 layers (default) are 1.8 GB, and as much again is written.

#include <spawn.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/peak_memory.h"
#include "common/rng.h"
#include "convert/conversion_methods.h"
#include "convert/converter.h"
#include "synthetic_model.h"

extern char** environ;

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHidden = 4096, kWidth = 14336, kVocab = 1024, kHead = 128;
constexpr int kUnits = 8;

/// Documents of 200 random ids: half as many again as are asked for.
void write_ids(const fs::path& path, int64_t tokens) {
  CounterRng rng(1, kStreamTest);
  std::string lines;
  for (int64_t written = 0; written < tokens * 3 / 2 + 4096; written += 200) {
    std::vector<uint64_t> ids(201);
    for (uint64_t& id : ids) id = rng.below(kVocab);
    lines += nlohmann::json{{"ids", ids}}.dump() + "\n";
  }
  write_file_atomically(path, lines);
}

v1::ConvertSpec calibrated(const std::string& method, const fs::path& ids, int64_t tokens) {
  v1::ConvertSpec spec = bench::slicing(method, kUnits, 2, "random_selection");
  const bool has_shared = conversion_methods().at(method).has_shared;
  if (has_shared) {
    spec.mutable_ffn()->set_experts(kUnits - 1);
    spec.mutable_ffn()->set_shared_experts(1);
  }
  spec.mutable_scale()->set_mode("least_squares");
  spec.mutable_scale()->clear_value();
  spec.mutable_calibration()->set_tokens(tokens);
  v1::DataSource& source = *spec.mutable_calibration()->add_data();
  source.set_path(ids);
  source.set_weight(1);
  return spec;
}

/// As the child process.
void work(const std::string& method, const fs::path& folder, int64_t tokens) {
  const auto world = make_self_communicator();
  const PeakMemory memory;
  const auto start = std::chrono::steady_clock::now();
  const ModelDirectory source(folder / "dense");
  const v1::ConvertSpec spec = calibrated(method, folder / "ids.jsonl", tokens);
  const ModelText no_text;
  convert_model(
      {.spec = spec, .seed = 1, .source = source, .text = no_text, .output = folder / "moe", .monitor = unwatched()},
      *world);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::ofstream(folder / "report") << seconds.count() << " " << memory.bytes().value() << "\n";
}

/// Seconds and bytes.
std::pair<double, double> in_a_process(const std::string& method, const fs::path& folder, int64_t tokens) {
  std::vector<std::string> words{"/proc/self/exe", "--work", method, folder.string(), std::to_string(tokens)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  int status = 0;
  if (posix_spawn(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0)
    throw HardwareError("cannot start a process");
  if (waitpid(child, &status, 0) != child || status != 0)
    throw Internal(concat("the process for `", method, "` failed"));
  std::pair<double, double> found;
  std::ifstream(folder / "report") >> found.first >> found.second;
  return found;
}

void measure_methods(const std::vector<std::string>& methods, int64_t layers, int64_t tokens) {
  const bench::WorkFolder folder;
  bench::write_synthetic_llama(folder / "dense", {"", layers, kHidden, kWidth, kVocab, kHead});
  write_ids(folder / "ids.jsonl", tokens);
  constexpr double kLayer = 4.0 * (2.5 * kHidden * kHidden + 3.0 * kHidden * kWidth);
  const double features = 4.0 * static_cast<double>(tokens) * (8 * kHidden + 3 * kWidth),
               states = 4.0 * static_cast<double>(tokens * layers) * kHidden;
  std::printf("| method | seconds | peak GB | layers in float | beyond the features |\n|---|---|---|---|---|\n");
  for (const std::string& method : methods) {
    const auto [seconds, bytes] = in_a_process(method, folder / "", tokens);
    fs::remove_all(folder / "moe");
    const bool has_gradients = conversion_methods().at(method).needs.gradients;
    std::printf("| %s | %.0f | %.2f | %.2f | %.2f |\n", method.c_str(), seconds, bytes / 1e9, bytes / kLayer,
                (bytes - features - (has_gradients ? states : 0)) / kLayer);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "--work") == 0) {
    moe::work(argv[2], argv[3], std::stoll(argv[4]));
    return 0;
  }
  int64_t layers = 4, tokens = 4096;
  std::vector<std::string> methods{
      "independent_random",   "independent_clustering", "coactivation",  "weave",      "analytic",
      "independent_gradient", "sharing_inner",          "sharing_inter", "importance", "residual"};
  CLI::App app("Seconds and peak memory of calibrated conversions of LLaMA-3-8B's layers");
  app.add_option("METHOD", methods, "Methods")->capture_default_str();
  app.add_option("--layers", layers, "Layers; 4 are 1.8 GB")->capture_default_str()->check(CLI::Range(1, 200));
  app.add_option("--tokens", tokens, "Calibration tokens")->capture_default_str()->check(CLI::Range(512, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  moe::measure_methods(methods, layers, tokens);
  return 0;
}
