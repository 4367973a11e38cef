// Writes the files that the fuzz targets start from: moe_fuzz_seeds OUTPUT

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "bad_input/bad_files.h"
#include "testing/sentencepiece_writer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class SeedFolder {
 public:
  SeedFolder(const fs::path& output, const std::string& target) : folder_(output / target) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }

  void add(const std::string& name, const std::string& bytes) const {
    std::ofstream out(folder_ / name, std::ios::binary);
    if (!(out << bytes)) throw std::runtime_error("cannot write " + (folder_ / name).string());
  }

 private:
  fs::path folder_;
};

/// Files of the corpus of wrong input, but for those that are long: each is one step away from a good one.
void add_bad(const SeedFolder& seeds, const std::vector<testing::BadFile>& files) {
  constexpr size_t kLongest = 8192;
  for (const testing::BadFile& file : files) {
    std::string name = "bad_" + file.name;
    std::replace_if(
        name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    if (file.bytes.size() <= kLongest) seeds.add(name, file.bytes);
  }
}

void write_safetensors(const fs::path& output) {
  const SeedFolder seeds(output, "safetensors_header");
  const auto add = [&](const std::string& name, const std::string& header, size_t data_bytes) {
    seeds.add(name, testing::safetensors_bytes(header, std::string(data_bytes, 'd')));
  };
  add("empty", "{}", 0);
  add("metadata", R"({"__metadata__":{"format":"pt","by":"x"}}   )", 0);
  add("three",
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"c":{"dtype":"U8","shape":[],"data_offsets":[14,15]}})",
      15);
  add("zero_size",
      R"({"a":{"dtype":"F64","shape":[0,4],"data_offsets":[0,0]},"b":{"dtype":"F16","shape":[3,0,2],"data_offsets":[0,0]}})",
      0);
  add("bits",
      R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]},"b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[1,4]}})",
      4);
  // For the target's second way: the first byte is the size of the data.
  seeds.add(
      "fitted",
      std::string("\x0F\0\0\0\0\0\0\0", 8) +
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[7],"data_offsets":[8,15]}})");
  add_bad(seeds, testing::bad_safetensors_headers());
}

void write_tokenizer_model(const fs::path& output) {
  const SeedFolder seeds(output, "tokenizer_model");
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown, 0},        {"<s>", 0, PieceType::kControl, 0},
                  {"</s>", 0, PieceType::kControl, 0},         {"a", -1, PieceType::kNormal, 0},
                  {"\xE2\x96\x81", -2, PieceType::kNormal, 0}, {"ti", -3, PieceType::kNormal, 0},
                  {"Once", 0, PieceType::kUserDefined, 0},     {"t", -4, PieceType::kUnused, 0}};
  seeds.add("plain", testing::write_sentencepiece_model(model));
  model.remove_extra_whitespaces = false;
  model.bos_id = -1;
  seeds.add("spaces", testing::write_sentencepiece_model(model));
  seeds.add("bytes", testing::good_tokenizer_model());
  add_bad(seeds, testing::bad_tokenizer_models());
}

void write_tokenizer_json(const fs::path& output) {
  const SeedFolder seeds(output, "tokenizer_json");
  const json good = testing::good_tokenizer_json();
  seeds.add("byte_level", good.dump());
  json qwen = good;
  qwen["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Digits"}, {"individual_digits", true}},
        {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithNext"}, {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}, {"use_regex", false}}}}};
  qwen["post_processor"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  qwen["model"]["ignore_merges"] = true;
  seeds.add("sequence", qwen.dump());
  json llama = good;
  llama["normalizer"] = {{"type", "Sequence"},
                         {"normalizers",
                          {{{"type", "Prepend"}, {"prepend", "_"}},
                           {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "_"}}}}};
  llama["pre_tokenizer"] = nullptr;
  llama["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<|end|>", {{"id", "<|end|>"}, {"ids", {5}}, {"tokens", {"<|end|>"}}}}}}};
  llama["decoder"] = {{"type", "Sequence"},
                      {"decoders",
                       {{{"type", "Replace"}, {"pattern", {{"String", "_"}}}, {"content", " "}},
                        {{"type", "ByteFallback"}},
                        {{"type", "Fuse"}},
                        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  llama["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"_", 2}, {"ab", 3}, {"<0xC3>", 4}};
  llama["model"]["merges"] = {{"a", "b"}};
  llama["model"]["byte_fallback"] = llama["model"]["fuse_unk"] = true;
  llama["model"]["unk_token"] = "b";
  seeds.add("byte_fallback", llama.dump());
  json metaspace = llama;
  metaspace["normalizer"] = nullptr;
  metaspace["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}, {"split", false}};
  metaspace["decoder"] = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}, {"split", false}};
  seeds.add("metaspace", metaspace.dump());
  add_bad(seeds, testing::bad_tokenizer_jsons());
}

void write_model_config(const fs::path& output) {
  const SeedFolder seeds(output, "model_config");
  const json llama = testing::good_config();
  const auto add = [&](const std::string& name, const json& changes) {
    json config = llama;
    config.update(changes);
    seeds.add(name, config.dump());
  };
  add("llama", json::object());
  add("llama3", {{"rope_scaling",
                  {{"rope_type", "llama3"},
                   {"factor", 8.0},
                   {"low_freq_factor", 1},
                   {"high_freq_factor", 4},
                   {"original_max_position_embeddings", 8192}}}});
  add("yarn",
      {{"rope_parameters",
        {{"rope_type", "yarn"}, {"rope_theta", 10000}, {"factor", 4}, {"original_max_position_embeddings", 16}}}});
  add("qwen2",
      {{"model_type", "qwen2"}, {"use_sliding_window", true}, {"sliding_window", 16}, {"max_window_layers", 0}});
  add("phi", {{"model_type", "phi"}, {"hidden_act", "gelu_new"}, {"partial_rotary_factor", 0.5}});
  add("native", {{"model_type", "dense2moe"},
                 {"moe",
                  {{"base_model_type", "llama"},
                   {"num_experts", 4},
                   {"top_k", 2},
                   {"expert_widths", {12, 12}},
                   {"output_scale", {1.0, 2.5}}}}});
  add("mixtral", {{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}});
  add("granite", {{"model_type", "granitemoeshared"},
                  {"num_local_experts", 4},
                  {"num_experts_per_tok", 2},
                  {"shared_intermediate_size", 8}});
  add("qwen2_moe", {{"model_type", "qwen2_moe"},
                    {"num_experts", 4},
                    {"num_experts_per_tok", 2},
                    {"moe_intermediate_size", 8},
                    {"shared_expert_intermediate_size", 8}});
  for (const char* sigmoid : {"glm4_moe", "solar_open"}) {
    add(sigmoid, {{"model_type", sigmoid},
                  {"n_routed_experts", 4},
                  {"num_experts_per_tok", 2},
                  {"moe_intermediate_size", 8},
                  {"n_shared_experts", 2},
                  {"first_k_dense_replace", 1},
                  {"routed_scaling_factor", 2.5},
                  {"partial_rotary_factor", 1.0}});
  }
  add_bad(seeds, testing::bad_configs());
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const std::string argument = argc == 2 ? argv[1] : "";
  if (argument.empty() || argument[0] == '-') {
    const bool is_help_wanted = argument == "--help" || argument == "-h";
    (is_help_wanted ? std::cout : std::cerr)
        << "usage: moe_fuzz_seeds OUTPUT\n"
           "Writes the files that the fuzz targets start from, one folder for each.\n";
    return is_help_wanted ? 0 : 64;
  }
  moe::write_safetensors(argv[1]);
  moe::write_tokenizer_model(argv[1]);
  moe::write_tokenizer_json(argv[1]);
  moe::write_model_config(argv[1]);
  return 0;
}
