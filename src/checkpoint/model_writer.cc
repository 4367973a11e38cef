#include "checkpoint/model_writer.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Spec = SafetensorsWriter::Spec;

constexpr char kSingle[] = "model.safetensors";
constexpr const char* kCompanions[] = {"tokenizer.model",         "tokenizer.json",    "tokenizer_config.json",
                                       "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                       "generation_config.json"};

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return kSingle;
  char text[64];
  std::snprintf(text, sizeof text, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return text;
}

/// As Torch and config.json name it.
std::string torch_name(at::ScalarType type) {
  return type == at::kFloat ? "float32" : type == at::kDouble ? "float64" : type == at::kBFloat16 ? "bfloat16" : "float16";
}

/// config.json, the index where there are several shards, tokenizer files and, last, MANIFEST.json with a digest per file;
/// `digests` has those that are known, since their files would be long to read again.
void write_companions(const fs::path& folder, const fs::path& source, const ModelConfig& config,
                      const std::map<std::string, std::string>& shard_of, uint64_t total_bytes, std::optional<std::string> dtype,
                      const std::map<std::string, std::string>& digests) {
  nlohmann::json written_config = to_json(config);
  // A hint, but one that transformers follows when asked for the stored type.
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (dtype && written_config.contains(key)) written_config[key] = *dtype;
  }
  write_file_atomically(folder / "config.json", written_config.dump(2) + "\n");
  if (shard_of.empty() || shard_of.begin()->second != kSingle) {
    const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", shard_of}};
    write_file_atomically(folder / "model.safetensors.index.json", index.dump(1) + "\n");
  }
  for (const char* name : kCompanions) {
    if (fs::exists(source / name)) write_file_atomically(folder / name, read_file(source / name));
  }
  nlohmann::json files = nlohmann::json::object();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto known = digests.find(entry.path().filename());
    files[entry.path().filename()] = {{"bytes", entry.file_size()},
                                      {"xxh3_128", known != digests.end() ? known->second : xxh3_hex_of_file(entry.path())}};
  }
  write_file_atomically(folder / "MANIFEST.json", nlohmann::json{{"format", "moe-model-1"}, {"files", files}}.dump(1) + "\n");
}

}  // namespace

ModelDirectoryWriter::ModelDirectoryWriter(fs::path path, fs::path source, const std::vector<Spec>& specs, uint64_t max_shard_bytes)
    : pending_(std::move(path)), source_(std::move(source)) {
  uint64_t room = 0;
  for (const Spec& spec : specs) {
    if (shards_.empty() || spec.bytes() > room) {
      shards_.emplace_back();
      room = max_shard_bytes;
    }
    shards_.back().specs.push_back(spec);
    room -= std::min(room, spec.bytes());
  }
  for (size_t i = 0; i < shards_.size(); ++i) shards_[i].file = shard_name(i, shards_.size());
  open_next_shard();
}

void ModelDirectoryWriter::open_next_shard() {
  writer_ = std::make_unique<SafetensorsWriter>(pending_.folder() / shards_[shard_].file, shards_[shard_].specs);
  written_in_shard_ = 0;
}

void ModelDirectoryWriter::finish_shard() {
  writer_->finish();
  digests_[shards_[shard_].file] = writer_->digest();
}

void ModelDirectoryWriter::write(const std::string& name, const at::Tensor& tensor) {
  if (written_in_shard_ == shards_[shard_].specs.size()) {
    finish_shard();
    ++shard_;
    MOE_CHECK(shard_ < shards_.size(), "tensor '", name, "' is one more than announced");
    open_next_shard();
  }
  writer_->write(name, tensor);
  ++written_in_shard_;
}

void ModelDirectoryWriter::finish(const ModelConfig& config) {
  finish_shard();
  std::map<std::string, std::string> shard_of;
  uint64_t total = 0;
  for (const Shard& shard : shards_) {
    for (const Spec& spec : shard.specs) {
      shard_of[spec.name] = shard.file;
      total += spec.bytes();
    }
  }
  const std::vector<Spec>& first = shards_.front().specs;
  const bool is_uniform = std::all_of(shards_.begin(), shards_.end(), [&](const Shard& shard) {
    return std::all_of(shard.specs.begin(), shard.specs.end(), [&](const Spec& spec) { return spec.dtype == first.front().dtype; });
  });
  write_companions(pending_.folder(), source_, config, shard_of, total,
                   is_uniform ? std::optional(torch_name(first.front().dtype)) : std::nullopt, digests_);
  pending_.commit();
}

void write_model(const fs::path& path, const fs::path& source, const Decoder& decoder, const ModelConfig& config,
                 at::ScalarType dtype, Communicator& world, bool writes_experts) {
  std::vector<LogicalView> mine;
  for (const Parameter& parameter : decoder.parameters()) {
    if (!(parameter.is_expert ? writes_experts : world.rank() == 0)) continue;
    for (LogicalView& view : logical_views(parameter, parameter.value.detach())) mine.push_back(std::move(view));
  }
  nlohmann::json announced = nlohmann::json::object();
  std::vector<Spec> specs;
  for (const LogicalView& view : mine) {
    specs.push_back({view.name, dtype, view.view.sizes().vec()});
    announced[view.name] = specs.back().bytes();
  }
  // Which rank writes which file is the same knowledge everywhere.
  const std::vector<std::string> all = world.all_gather_bytes(announced.dump(), "announce model shards");
  std::vector<nlohmann::json> by_rank;
  size_t shards = 0, my_shard = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    by_rank.push_back(nlohmann::json::parse(all[rank]));
    if (rank == world.rank()) my_shard = shards;
    shards += by_rank.back().empty() ? 0 : 1;
  }

  std::optional<PendingDirectory> pending;
  agree(world, "create " + path.string(), [&] {
    if (world.rank() == 0) pending.emplace(path);
  });
  const fs::path folder = PendingDirectory::temporary_path(path);
  std::string my_digest;
  agree(world, "write model shards", [&] {
    if (specs.empty()) return;
    SafetensorsWriter writer(folder / shard_name(my_shard, shards), specs);
    for (const LogicalView& view : mine) writer.write(view.name, view.view.to(dtype));
    writer.finish();
    my_digest = writer.digest();
  });
  const std::vector<std::string> digest_of_rank = world.all_gather_bytes(my_digest, "digests of model shards");
  agree(world, "finish model " + path.string(), [&] {
    if (world.rank() != 0) return;
    std::map<std::string, std::string> shard_of;
    uint64_t total = 0;
    std::map<std::string, std::string> digests;
    size_t shard = 0;
    for (size_t rank = 0; rank < by_rank.size(); ++rank) {
      if (by_rank[rank].empty()) continue;
      const std::string file = shard_name(shard++, shards);
      digests[file] = digest_of_rank[rank];
      for (const auto& [name, bytes] : by_rank[rank].items()) {
        shard_of[name] = file;
        total += bytes.get<uint64_t>();
      }
    }
    write_companions(folder, source, config, shard_of, total, torch_name(dtype), digests);
    pending->commit();
  });
}

}  // namespace moe
