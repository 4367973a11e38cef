// What a conversion that is calibrated costs: seconds and peak of resident memory (VmHWM, mapped files
// included) on a bf16 stack of LLaMA-3-8B's layers, each in a process of its own.
//
//   moe_calibration_bench [--layers N] [--tokens N] [CONVERSION...]     MOE_BENCH_DIR: folder to work in
//
// 4 layers (default) are 1.8 GB, and as much again is written.

#include <spawn.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <algorithm>
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
#include "model/tensor_specs.h"
#include "pipeline/defaults.h"
#include "synthetic_model.h"

extern char** environ;

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHidden = 4096, kWidth = 14336, kVocab = 1024, kHead = 128;
constexpr int kUnits = 8;
constexpr char kAttention[] = "attention";

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

/// A conversion with the defaults of a job file: METHOD, METHOD/ROUTER_INIT, or "attention" for attention's experts.
v1::ConvertSpec calibrated(const std::string& what, const fs::path& ids, int64_t tokens) {
  const size_t slash = what.find('/');
  const std::string method = what.substr(0, slash), init = slash == std::string::npos ? "" : what.substr(slash + 1);
  v1::PipelineSpec pipeline;
  v1::ConvertSpec& spec = *pipeline.add_stages()->mutable_convert();
  if (method == kAttention) {
    spec.mutable_attention()->set_experts(kUnits);
    spec.mutable_attention()->set_top_k(kUnits / 2);
    spec.mutable_attention()->set_grouping("clustered");
    if (!init.empty()) spec.mutable_attention()->mutable_router()->set_init(init);
  } else {
    v1::FfnExpertsSpec& ffn = *spec.mutable_ffn();
    ffn.set_method(method);
    ffn.set_experts(kUnits);
    ffn.set_top_k(2);
    if (conversion_methods().at(method).has_shared) {
      ffn.set_experts(kUnits - 1);
      ffn.set_shared_experts(1);
    }
    if (method == "upcycle") {  // as much again as is read
      ffn.set_experts(2);
      ffn.set_top_k(1);
    }
    if (method.starts_with("pruned")) {
      ffn.set_experts(1);
      ffn.set_top_k(1);
      ffn.set_expert_width(kWidth / 2);
    }
    if (!init.empty()) spec.mutable_router()->set_init(init);
  }
  spec.mutable_calibration()->set_tokens(tokens);
  spec.mutable_calibration()->add_data()->set_path(ids);
  return effective_spec(pipeline).stages(0).convert();
}

bool needs_gradients(const std::string& what) {
  const std::string method = what.substr(0, what.find('/'));
  return method != kAttention && conversion_methods().at(method).needs.gradients;
}

/// Bytes of a layer in float.
double layer_bytes(const ModelConfig& config) {
  double bytes = 0;
  for (const TensorSpec& spec : logical_tensor_specs(config)) {
    if (spec.id.layer == 0) bytes += 4.0 * static_cast<double>(c10::multiply_integers(spec.shape));
  }
  return bytes;
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

void measure_all(const std::vector<std::string>& conversions, int64_t layers, int64_t tokens) {
  const bench::WorkFolder folder;
  bench::write_synthetic_llama(folder / "dense", {"", layers, kHidden, kWidth, kVocab, kHead});
  write_ids(folder / "ids.jsonl", tokens);
  const double features = 4.0 * static_cast<double>(tokens) * (8 * kHidden + 3 * kWidth),
               states = 4.0 * static_cast<double>(tokens * layers) * kHidden;
  std::printf(
      "| conversion | seconds | peak GB | layer GB | layers | beyond the features |\n|---|---|---|---|---|---|\n");
  for (const std::string& what : conversions) {
    const auto [seconds, bytes] = in_a_process(what, folder / "", tokens);
    // In float, the larger of the dense one and of what is made of it.
    const double layer = std::max(layer_bytes(ModelDirectory(folder / "dense").config()),
                                  layer_bytes(ModelDirectory(folder / "moe").config()));
    fs::remove_all(folder / "moe");
    std::printf("| %s | %.0f | %.2f | %.2f | %.2f | %.2f |\n", what.c_str(), seconds, bytes / 1e9, layer / 1e9,
                bytes / layer, (bytes - features - (needs_gradients(what) ? states : 0)) / layer);
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
  std::vector<std::string> conversions{"sequential",
                                       "independent_random",
                                       "independent_random/hidden_clustering",
                                       "independent_random/distilled",
                                       "independent_clustering",
                                       "coactivation",
                                       "weave",
                                       "analytic",
                                       "independent_gradient",
                                       "sharing_inner",
                                       "sharing_inter",
                                       "importance",
                                       "residual",
                                       "pruned_random",
                                       "pruned_gradient",
                                       "upcycle",
                                       "attention"};
  CLI::App app("Seconds and peak memory of calibrated conversions of LLaMA-3-8B's layers");
  app.add_option("CONVERSION", conversions, "METHOD, METHOD/ROUTER_INIT or attention")->capture_default_str();
  app.add_option("--layers", layers, "Layers; 4 are 1.8 GB")->capture_default_str()->check(CLI::Range(1, 200));
  app.add_option("--tokens", tokens, "Calibration tokens")->capture_default_str()->check(CLI::Range(512, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  moe::measure_all(conversions, layers, tokens);
  return 0;
}
