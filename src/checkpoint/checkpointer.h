#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/tensor_range.h"
#include "comm/communicator.h"

/// Training checkpoints (docs/model_directory.md): immutable folders s<step>-t<attempt>, shards under logical names,
/// MANIFEST.json renamed last. What is stored are logical tensors, whichever rank held which part of them, so any
/// layout may load what any other saved.
namespace moe {

/// A checkpoint that is complete on disk.
struct SavedCheckpoint {
  std::string name;  ///< of its folder: "s00000010-t0001"
  int64_t step = 0;
  std::string digest;  ///< XXH3-128 of its MANIFEST.json
  int64_t bytes = 0;
};

/// A complete folder, as its name and its manifest tell it.
struct StoredCheckpoint {
  std::string name;
  int64_t step = 0;
  int attempt = 0;
  nlohmann::json scalars = nullptr;  ///< null if the manifest, or a file that it lists, cannot be read
};

/// Who says which checkpoints count. Alone, what was made with the same configuration; with a coordinator its database
/// decides.
struct CheckpointAuthority {
  /// Names that may be resumed from, newest first; nullopt: any complete folder that is ours.
  std::optional<std::vector<std::string>> resumable;
  /// Whether training may go on from a checkpoint with these scalars: only such ones are removed when they are old.
  /// Asked on every rank; empty: all.
  std::function<bool(const nlohmann::json& scalars)> is_ours;
  /// Called by rank 0 when the folder is complete; may be empty. False: not committed for now, and older ones are kept.
  /// What it throws is thrown on all ranks.
  std::function<bool(const SavedCheckpoint& checkpoint)> commit;
};

/// The complete folders below `root` in order of writing, newest first. Throws StorageError if it cannot be listed.
std::vector<StoredCheckpoint> stored_checkpoints(const std::filesystem::path& root);
/// One of them, by its name.
StoredCheckpoint stored_checkpoint(const std::filesystem::path& root, const std::string& name);

/// Whether a save takes copies first.
enum class SnapshotOf {
  kTensors,  ///< none: nobody may change the tensors until write() has returned
  kCopies    ///< in host memory: training may go on; costs the bytes of what this rank writes
};

/// What a thread that writes one is called, in `top -H` and /proc.
inline constexpr const char* kWriterName = "checkpoint";

/// A checkpoint on its way to <root>/s<step>-t<attempt>, in three parts, of which the long one needs no other rank:
///   the constructor    collective: takes what this rank writes, and makes the folder
///   write()            this rank's file; on any thread, beside collectives of others. Its error is told by commit()
///   commit()           collective, when write() has returned: the manifest, which makes the folder a checkpoint. All
///                      elements of every tensor that a rank holds must be written, each by one rank (else Internal)
/// A failure on any rank is thrown on all (StorageError), leaves no part of the new checkpoint and keeps the old ones.
/// Killed or destroyed before commit(), it leaves a folder that is no checkpoint (other ranks may still write into it);
/// a later attempt removes it when it commits its first one.
class CheckpointSave {
 public:
  /// Every rank writes those of `ranges` that say so.
  CheckpointSave(const std::filesystem::path& root, int64_t step, int attempt, const std::vector<TensorRange>& ranges,
                 nlohmann::json scalars, Communicator& world, SnapshotOf snapshot);
  CheckpointSave(const CheckpointSave&) = delete;
  CheckpointSave& operator=(const CheckpointSave&) = delete;
  /// Gives the writing up: waits until the tensor at hand is written, or for as long as the system takes for a write.
  ~CheckpointSave();

  /// Throws nothing.
  void write();
  /// Beside what its rank does next, collectives included. Once, and of copies only (else Internal).
  void write_beside();
  /// Whether this rank's part is done, for better or worse: commit() then waits for other ranks at most.
  bool is_written() const { return is_written_; }

  /// Waits for the thread; has the checkpoint committed, and then removes all of ours but the newest `keep`; those of
  /// another configuration, and damaged ones, which may be another's, stay.
  void commit(int keep, const CheckpointAuthority& authority = {});
  /// Collective, in place of commit(): nothing of it stays. Waits as the destructor does, for all ranks.
  void give_up();

 private:
  void write_manifest(std::map<std::string, ManifestTensor> tensors, const CheckpointAuthority& authority);

  std::filesystem::path root_, folder_;
  int64_t step_;
  int attempt_;
  std::vector<TensorRange> written_;
  std::map<std::string, ManifestTensor> left_to_others_;  ///< what we hold of it they write: no parts
  nlohmann::json scalars_;
  Communicator& world_;
  SnapshotOf snapshot_;
  std::vector<std::string> shards_;  ///< of all ranks, in the order of those that write
  std::string mine_;                 ///< ours; empty if we write nothing
  std::string described_ = "{}";     ///< what the manifest tells of it, as JSON
  std::exception_ptr failure_;       ///< of write()
  bool is_committed_ = true;
  std::atomic<bool> is_written_ = false;
  std::atomic<bool> is_given_up_ = false;
  std::thread writer_;  ///< has ours until it is joined
};

/// The three in a row. Collective.
void save_checkpoint(const std::filesystem::path& root, int64_t step, int attempt,
                     const std::vector<TensorRange>& ranges, const nlohmann::json& scalars, Communicator& world,
                     int keep, const CheckpointAuthority& authority = {});

/// Loads the newest checkpoint below `root` that is ours and whose every chunk that any rank reads verifies into the
/// ranges, from whatever ranges other ranks saved; an unreadable one is named in a warning and the next older is taken.
/// Collective. Returns its scalars; nullopt if there is none. Throws NoReadableCheckpoint if there are some and none
/// can be read.
std::optional<nlohmann::json> load_newest_checkpoint(const std::filesystem::path& root,
                                                     const std::vector<TensorRange>& ranges, Communicator& world,
                                                     const CheckpointAuthority& authority = {});

}  // namespace moe
