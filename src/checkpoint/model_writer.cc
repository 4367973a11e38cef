#include "checkpoint/model_writer.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "checkpoint/conversion_files.h"
#include "checkpoint/weight_file_names.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "common/python_json.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Spec = SafetensorsWriter::Spec;

/// Files of the tokenizer, of generation and of chats.
constexpr const char* kCompanions[] = {
    "tokenizer.model", "tokenizer.json",          "tokenizer_config.json", "vocab.json",
    "merges.txt",      "special_tokens_map.json", "added_tokens.json",     "generation_config.json"};
constexpr char kTemplatePrefix[] = "chat_template";
constexpr char kTemplate[] = "chat_template.jinja";

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return kSingleWeights;
  char text[64];
  std::snprintf(text, sizeof text, "%s%05zu-of-%05zu%s", kShardPrefix, index + 1, count, kWeightsExtension);
  return text;
}

/// As Torch and config.json name it.
std::string torch_name(at::ScalarType type) {
  return type == at::kFloat      ? "float32"
         : type == at::kDouble   ? "float64"
         : type == at::kBFloat16 ? "bfloat16"
                                 : "float16";
}

std::vector<std::vector<Spec>> cut_shards(const std::vector<Spec>& specs, uint64_t max_bytes) {
  std::vector<std::vector<Spec>> shards;
  uint64_t room = 0;
  for (const Spec& spec : specs) {
    if (shards.empty() || spec.bytes() > room) {
      shards.emplace_back();
      room = max_bytes;
    }
    shards.back().push_back(spec);
    room -= std::min(room, spec.bytes());
  }
  return shards;
}

void copy_into(const fs::path& folder, const fs::path& file) {
  if (!fs::exists(file) || fs::exists(folder / file.filename())) return;
  if (is_lfs_pointer(file)) {
    // Whoever needs it has read it before the work began; the work must not be lost for one that nobody reads.
    log_warning(concat("event=companion_left_out file=", file.string(), " reason=\"a Git LFS pointer\""));
    return;
  }
  write_file_atomically(folder / file.filename(), read_file(file));
}

void copy_companions(const fs::path& folder, const fs::path& source, bool is_native, const std::string& chat_template) {
  // Before the source's own, which then is left out.
  if (!chat_template.empty()) write_file_atomically(folder / kTemplate, chat_template);
  for (const char* name : kCompanions) copy_into(folder, source / name);
  if (is_native) {
    for (const char* name : {kConversionReport, kConversionIndices}) copy_into(folder, source / name);
  }
  std::error_code missing;  // a model may come from nowhere
  for (const auto& entry : fs::directory_iterator(source, missing)) {
    const std::string name = entry.path().filename();
    // MANIFEST.json, which lists the files, takes UTF-8 only.
    if (entry.is_regular_file() && name.starts_with(kTemplatePrefix) && is_utf8(name)) copy_into(folder, entry.path());
  }
}

/// How to read the weights.
struct WeightsDescription {
  nlohmann::json config;
  std::map<std::string, std::string> shard_of;  ///< by tensor
  uint64_t total_bytes = 0;
  std::string dtype;  ///< of all tensors; where they differ, the least that holds the values of all
};

/// config.json, and the index where there are several shards.
void write_description(const fs::path& folder, const WeightsDescription& weights) {
  nlohmann::json config = weights.config;
  // A hint, but one that transformers follows when asked for the stored type.
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (config.contains(key)) config[key] = weights.dtype;
  }
  write_file_atomically(folder / "config.json", python_json_text(config, 2) + "\n");
  if (weights.shard_of.empty() || weights.shard_of.begin()->second != kSingleWeights) {
    const nlohmann::json index = {{"metadata", {{"total_size", weights.total_bytes}}},
                                  {"weight_map", weights.shard_of}};
    write_file_atomically(folder / kWeightsIndex, index.dump(1) + "\n");
  }
}

/// MANIFEST.json with a digest per file, the last one. `digests`: by file, of those that would be long to read again.
void write_manifest(const fs::path& folder, const std::map<std::string, std::string>& digests) {
  nlohmann::json files = nlohmann::json::object();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto known = digests.find(entry.path().filename());
    files[entry.path().filename()] = {
        {"bytes", entry.file_size()},
        {"xxh3_128", known != digests.end() ? known->second : xxh3_hex_of_file(entry.path())}};
  }
  write_file_atomically(folder / "MANIFEST.json",
                        nlohmann::json{{"format", "moe-model-1"}, {"files", files}}.dump(1) + "\n");
}

/// The tensors that one rank writes, announced to all: [[name, bytes], ...] per shard.
nlohmann::json announcement(const std::vector<std::vector<Spec>>& shards) {
  nlohmann::json announced = nlohmann::json::array();
  for (const std::vector<Spec>& specs : shards) {
    nlohmann::json shard = nlohmann::json::array();
    for (const Spec& spec : specs) shard.push_back({spec.name, spec.bytes()});
    announced.push_back(std::move(shard));
  }
  return announced;
}

}  // namespace

ModelDirectoryWriter::ModelDirectoryWriter(fs::path path, fs::path source, const std::vector<Spec>& specs,
                                           uint64_t max_shard_bytes)
    : pending_(std::move(path)), source_(std::move(source)), shards_(cut_shards(specs, max_shard_bytes)) {
  for (const Spec& spec : specs) bytes_ += spec.bytes();
  open_next_shard();
}

std::string ModelDirectoryWriter::file_of(size_t shard) const {
  return shard_name(shard, shards_.size());
}

void ModelDirectoryWriter::open_next_shard() {
  writer_ = std::make_unique<SafetensorsWriter>(pending_.folder() / file_of(shard_), shards_[shard_]);
  written_in_shard_ = 0;
}

void ModelDirectoryWriter::finish_shard() {
  writer_->finish();
  digests_[file_of(shard_)] = writer_->digest();
}

void ModelDirectoryWriter::write(const std::string& name, const at::Tensor& tensor) {
  if (written_in_shard_ == shards_[shard_].size()) {
    finish_shard();
    ++shard_;
    MOE_CHECK(shard_ < shards_.size(), "tensor '", name, "' is one more than announced");
    open_next_shard();
  }
  writer_->write(name, tensor);
  ++written_in_shard_;
}

void ModelDirectoryWriter::write_config(const nlohmann::json& config) {
  finish_shard();
  at::ScalarType dtype = shards_.front().front().dtype;
  WeightsDescription weights{.config = config, .shard_of = {}, .total_bytes = bytes_, .dtype = {}};
  for (size_t shard = 0; shard < shards_.size(); ++shard) {
    for (const Spec& spec : shards_[shard]) {
      weights.shard_of[spec.name] = file_of(shard);
      dtype = c10::promoteTypes(dtype, spec.dtype);
    }
  }
  weights.dtype = torch_name(dtype);
  write_description(pending_.folder(), weights);
  is_native_ = config.contains("moe");
}

void ModelDirectoryWriter::commit() {
  copy_companions(pending_.folder(), source_, is_native_, /*chat_template=*/"");
  write_manifest(pending_.folder(), digests_);
  pending_.commit();
}

void write_model(const fs::path& path, const fs::path& source, const Decoder& decoder, const ModelConfig& config,
                 at::ScalarType dtype, Communicator& world, bool writes_experts, const std::string& chat_template,
                 uint64_t max_shard_bytes) {
  std::vector<LogicalView> mine;
  for (const Parameter& parameter : decoder.parameters()) {
    if (!(parameter.is_expert ? writes_experts : world.rank() == 0)) continue;
    for (LogicalView& view : logical_views(parameter, parameter.value.detach())) mine.push_back(std::move(view));
  }
  std::vector<Spec> specs;
  for (const LogicalView& view : mine) specs.push_back({view.name, dtype, view.view.sizes().vec()});
  const std::vector<std::vector<Spec>> my_shards = cut_shards(specs, max_shard_bytes);
  // Which rank writes which file is the same knowledge everywhere.
  nlohmann::json by_shard = nlohmann::json::array();
  size_t my_first = 0;
  const std::vector<std::string> announced =
      world.all_gather_bytes(announcement(my_shards).dump(), "announce model shards");
  for (int rank = 0; rank < world.size(); ++rank) {
    if (rank == world.rank()) my_first = by_shard.size();
    const nlohmann::json of_rank = nlohmann::json::parse(announced[rank]);
    by_shard.insert(by_shard.end(), of_rank.begin(), of_rank.end());
  }

  std::optional<PendingDirectory> pending;
  agree(world, "create " + path.string(), [&] {
    if (world.rank() == 0) pending.emplace(path);
  });
  const fs::path folder = PendingDirectory::temporary_path(path);
  nlohmann::json my_digests = nlohmann::json::array();
  agree(world, "write model shards", [&] {
    size_t next = 0;
    for (size_t shard = 0; shard < my_shards.size(); ++shard) {
      SafetensorsWriter writer(folder / shard_name(my_first + shard, by_shard.size()), my_shards[shard]);
      for (size_t i = 0; i < my_shards[shard].size(); ++i, ++next)
        writer.write(mine[next].name, mine[next].view.to(at::kCPU, dtype));
      writer.finish();
      my_digests.push_back(writer.digest());
    }
  });
  const std::vector<std::string> digests = world.all_gather_bytes(my_digests.dump(), "digests of model shards");
  agree(world, "finish model " + path.string(), [&] {
    if (world.rank() != 0) return;
    WeightsDescription weights{.config = to_json(config), .shard_of = {}, .total_bytes = 0, .dtype = torch_name(dtype)};
    for (size_t shard = 0; shard < by_shard.size(); ++shard) {
      for (const nlohmann::json& tensor : by_shard[shard]) {
        weights.shard_of[tensor[0]] = shard_name(shard, by_shard.size());
        weights.total_bytes += tensor[1].get<uint64_t>();
      }
    }
    write_description(folder, weights);
    copy_companions(folder, source, weights.config.contains("moe"), chat_template);
    size_t shard = 0;
    std::map<std::string, std::string> digest_of_file;
    for (const std::string& text : digests) {
      const nlohmann::json of_rank = nlohmann::json::parse(text);
      for (const nlohmann::json& digest : of_rank) digest_of_file[shard_name(shard++, by_shard.size())] = digest;
    }
    write_manifest(folder, digest_of_file);
    pending->commit();
  });
}

}  // namespace moe
