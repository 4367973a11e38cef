#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/pending_directory.h"
#include "checkpoint/safetensors.h"
#include "comm/communicator.h"
#include "model/decoder.h"

namespace moe {

/// Writes a model directory tensor by tensor, in the order of its specs, cutting shards by size; all aside, renamed at
/// the end. Used by one rank of a conversion or an export.
class ModelDirectoryWriter {
 public:
  static constexpr uint64_t kMaxShardBytes = 5'000'000'000;

  /// Tokenizer and generation files are copied from `source`. Throws InvalidArgument if `path` exists, StorageError.
  ModelDirectoryWriter(std::filesystem::path path, std::filesystem::path source,
                       const std::vector<SafetensorsWriter::Spec>& specs, uint64_t max_shard_bytes = kMaxShardBytes);

  /// The next tensor of the specs.
  void write(const std::string& name, const at::Tensor& tensor);
  /// Folder being filled, for files that go with the model.
  const std::filesystem::path& folder() const { return pending_.folder(); }
  /// After the last tensor: ends the weights and writes config.json, so that folder() can be opened as a model while it
  /// is still aside. `torch_dtype` becomes the type of the tensors.
  void write_config(const nlohmann::json& config);
  void write_config(const ModelConfig& config) { write_config(to_json(config)); }
  /// After write_config(): adds what goes with the model and MANIFEST.json, and takes its place.
  void commit();
  /// Both.
  void finish(const nlohmann::json& config) {
    write_config(config);
    commit();
  }
  void finish(const ModelConfig& config) { finish(to_json(config)); }

  uint64_t bytes() const { return bytes_; }  ///< of all tensors
  size_t shards() const { return shards_.size(); }

 private:
  void open_next_shard();
  void finish_shard();
  std::string file_of(size_t shard) const;

  PendingDirectory pending_;
  std::filesystem::path source_;
  std::vector<std::vector<SafetensorsWriter::Spec>> shards_;
  uint64_t bytes_ = 0;
  size_t shard_ = 0;
  size_t written_in_shard_ = 0;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::map<std::string, std::string> digests_;  ///< of finished shards, by file
  bool is_native_ = false;                      ///< as config.json says
};

/// Writes a trained decoder as a model directory in `dtype`. Collective over `world`: ranks that own experts which no
/// lower rank owns (`writes_experts`) write them to shards of their own; rank 0 writes everything else. Renamed at the
/// end; a failure on any rank is thrown on all and leaves nothing. What goes with the model is copied from `source`:
/// tokenizer, generation settings, how it was converted. `chat_template`: Jinja text for chat_template.jinja where the
/// source has none.
void write_model(const std::filesystem::path& path, const std::filesystem::path& source, const Decoder& decoder,
                 const ModelConfig& config, at::ScalarType dtype, Communicator& world, bool writes_experts,
                 const std::string& chat_template = "",
                 uint64_t max_shard_bytes = ModelDirectoryWriter::kMaxShardBytes);

}  // namespace moe
