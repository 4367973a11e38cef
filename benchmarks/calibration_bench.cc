// What a conversion that is calibrated costs: seconds and peak of resident memory (VmHWM, mapped files
// included) on a bf16 stack of LLaMA-3-8B's layers, each in a process of its own.
//
//   moe_calibration_bench [--layers N] [--tokens N] [CONVERSION...]     MOE_BENCH_DIR: folder to work in
//   moe_calibration_bench attention/hidden_clustering "analytic router.gate=product"
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
#include <sstream>
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
#include "pipeline/spec.h"
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

/// What a row converts: "METHOD[/ROUTER_INIT] [FIELD=VALUE...]".
struct Conversion {
  std::string method, router_init;
  std::vector<std::string> assignments;  ///< as --set has them
};

Conversion parse(const std::string& what) {
  Conversion conversion;
  std::istringstream words(what);
  words >> conversion.method;
  if (const size_t slash = conversion.method.find('/'); slash != std::string::npos) {
    conversion.router_init = conversion.method.substr(slash + 1);
    conversion.method.resize(slash);
  }
  for (std::string word; words >> word;) conversion.assignments.push_back("convert." + word);
  return conversion;
}

/// With the defaults of a job file.
v1::ConvertSpec calibrated(const std::string& what, const fs::path& folder, int64_t tokens) {
  const auto& [method, init, assignments] = parse(what);
  nlohmann::json convert{{"input", folder / "dense"},
                         {"calibration", {{"tokens", tokens}, {"data", {{{"path", folder / "ids.jsonl"}}}}}}};
  if (method == kAttention) {
    convert[kAttention] = {{"experts", kUnits}, {"top_k", kUnits / 2}, {"grouping", "clustered"}};
  } else {
    nlohmann::json& ffn = convert["ffn"] = {{"method", method}, {"experts", kUnits}, {"top_k", 2}};
    const ConversionMethod& row = conversion_methods().at(method);
    if (row.has_shared) ffn.update({{"experts", kUnits - 1}, {"shared_experts", 1}});
    if (method == "upcycle") ffn.update({{"experts", 2}, {"top_k", 1}});  // as much again as is read
    if (row.has_others)
      ffn.update({{"experts", 2}, {"top_k", 1}, {"others", {folder / "other"}}, {"options", {{"router", "random"}}}});
    if (method.starts_with("pruned")) ffn.update({{"experts", 1}, {"top_k", 1}, {"expert_width", kWidth / 2}});
  }
  if (!init.empty()) (method == kAttention ? convert[kAttention]["router"] : convert["router"]) = {{"init", init}};
  const nlohmann::json job{{"apiVersion", "moe/v1"}, {"kind", "Job"}, {"name", "bench"}, {"convert", convert}};
  return effective_spec(load_pipeline_or_throw(job.dump(), what, assignments, {})).stages(0).convert();
}

bool needs_gradients(const std::string& what) {
  const std::string method = parse(what).method;
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
void work(const std::string& what, const fs::path& folder, int64_t tokens) {
  const auto world = make_self_communicator();
  const PeakMemory memory;
  const auto start = std::chrono::steady_clock::now();
  const ModelDirectory source(folder / "dense");
  const v1::ConvertSpec spec = calibrated(what, folder, tokens);
  std::vector<ModelDirectory> others;
  for (const std::string& path : spec.ffn().others()) others.emplace_back(path);
  std::vector<const ModelDirectory*> other_models;
  for (const ModelDirectory& other : others) other_models.push_back(&other);
  const ModelText no_text;
  convert_model({.spec = spec,
                 .seed = 1,
                 .source = source,
                 .text = no_text,
                 .output = folder / "moe",
                 .monitor = unwatched(),
                 .others = other_models},
                *world);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::ofstream(folder / "report") << seconds.count() << " " << memory.bytes().value() << "\n";
}

/// Seconds and bytes.
std::pair<double, double> in_a_process(const std::string& what, const fs::path& folder, int64_t tokens) {
  std::vector<std::string> words{"/proc/self/exe", "--work", what, folder.string(), std::to_string(tokens)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  int status = 0;
  if (posix_spawn(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0)
    throw HardwareError("cannot start a process");
  if (waitpid(child, &status, 0) != child || status != 0) throw Internal(concat("the process for `", what, "` failed"));
  std::pair<double, double> found;
  std::ifstream(folder / "report") >> found.first >> found.second;
  return found;
}

void measure_all(const std::vector<std::string>& conversions, int64_t layers, int64_t tokens) {
  const bench::WorkFolder folder;
  bench::write_synthetic_llama(folder / "dense", {"", layers, kHidden, kWidth, kVocab, kHead});
  fs::create_directory_symlink(folder / "dense", folder / "other");
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
                                       "independent_random/pca",
                                       "independent_random/distilled",
                                       "independent_random scale.alignment=mean_variance",
                                       "independent_clustering",
                                       "coactivation",
                                       "weave",
                                       "weave ffn.options.shared=adaptive ffn.experts=8 ffn.shared_experts=0",
                                       "analytic",
                                       "analytic router.gate=product",
                                       "independent_gradient",
                                       "sharing_inner",
                                       "sharing_inter",
                                       "importance",
                                       "residual",
                                       "pruned_random",
                                       "pruned_gradient",
                                       "upcycle",
                                       "merge",
                                       "attention"};
  CLI::App app("Seconds and peak memory of calibrated conversions of LLaMA-3-8B's layers");
  app.add_option("CONVERSION", conversions,
                 "'METHOD[/ROUTER_INIT] [FIELD=VALUE...]' with the fields of `convert`; attention for its experts")
      ->capture_default_str();
  app.add_option("--layers", layers, "Layers; 4 are 1.8 GB")->capture_default_str()->check(CLI::Range(1, 200));
  app.add_option("--tokens", tokens, "Calibration tokens")->capture_default_str()->check(CLI::Range(512, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  moe::measure_all(conversions, layers, tokens);
  return 0;
}
