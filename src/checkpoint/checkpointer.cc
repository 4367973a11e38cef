#include "checkpoint/checkpointer.h"

#include <pthread.h>

#include <algorithm>
#include <cstdio>
#include <system_error>

#include "checkpoint/checkpoint_shards.h"
#include "checkpoint/dtypes.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "common/log.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string shard_name(int index, int count) {
  char text[64];
  std::snprintf(text, sizeof text, "shard-%05d-of-%05d.safetensors", index + 1, count);
  return text;
}

/// A checkpoint, or what a killed writer left of one.
struct Folder {
  int attempt = 0;
  int64_t step = 0;
  fs::path path;
  bool is_complete = false;
};

/// Those below root in order of writing, newest first: a later attempt may have started at an earlier step (another
/// config, or a checkpoint that could not be read), so the step alone does not tell.
std::vector<Folder> checkpoint_folders(const fs::path& root) {
  std::vector<Folder> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    const std::string name = entry.path().filename();
    long long step = 0;
    int attempt = 0;
    if (std::sscanf(name.c_str(), "s%lld-t%d", &step, &attempt) != 2 ||
        name != JobFolder::checkpoint_name(step, attempt))
      continue;
    found.push_back({attempt, step, entry.path(), fs::exists(entry.path() / kManifestName)});
  }
  // Not being able to look is not the same as there being none: training must not begin anew.
  if (error && error != std::errc::no_such_file_or_directory) {
    throw StorageError(concat("cannot list checkpoints in ", root.string(), ": ", error.message()));
  }
  std::sort(found.begin(), found.end(),
            [](const Folder& a, const Folder& b) { return std::tie(a.attempt, a.step) > std::tie(b.attempt, b.step); });
  return found;
}

/// Without its manifest it is no checkpoint any more, whenever we are killed from here on.
void remove_folder(const fs::path& folder) {
  std::error_code error, ignored;
  fs::remove(folder / kManifestName, error);
  fs::remove_all(folder, error);
  if (error && fs::exists(folder, ignored))
    log_warning(concat("event=checkpoint_not_removed path=", folder.string(), " reason=\"", error.message(), "\""));
}

/// Keeps the newest `keep` of ours; removes older ones of ours, and what killed writers of earlier attempts left.
void remove_old(const fs::path& root, int attempt, int keep, const CheckpointAuthority& authority) {
  int kept = 0;
  for (const Folder& folder : checkpoint_folders(root)) {
    if (folder.is_complete) {
      const json scalars = stored_checkpoint(root, folder.path.filename()).scalars;
      if (scalars.is_null() || (authority.is_ours && !authority.is_ours(scalars))) continue;
      if (++kept <= std::max(keep, 1)) continue;
    } else if (folder.attempt >= attempt) {
      continue;
    }
    remove_folder(folder.path);
  }
}

/// What all ranks wrote, from what each of them tells of its file.
std::map<std::string, ManifestTensor> tensors_of(const std::vector<std::string>& described) {
  std::map<std::string, ManifestTensor> tensors;
  for (const std::string& told : described) {
    const json of_rank = json::parse(told);
    for (const auto& [name, tensor] : of_rank.items()) add_parts(tensors, name, tensor_from_json(tensor));
  }
  return tensors;
}

}  // namespace

StoredCheckpoint stored_checkpoint(const fs::path& root, const std::string& name) {
  StoredCheckpoint stored;
  stored.name = name;
  long long step = 0;
  if (std::sscanf(name.c_str(), "s%lld-t%d", &step, &stored.attempt) == 2) stored.step = step;
  try {
    stored.scalars = Manifest::read(root / name).scalars;
  } catch (const InvalidArgument&) {
    stored.scalars = nullptr;
  }
  return stored;
}

std::vector<StoredCheckpoint> stored_checkpoints(const fs::path& root) {
  std::vector<StoredCheckpoint> stored;
  for (const Folder& folder : checkpoint_folders(root)) {
    if (folder.is_complete) stored.push_back(stored_checkpoint(root, folder.path.filename()));
  }
  return stored;
}

CheckpointSave::CheckpointSave(const fs::path& root, int64_t step, int attempt, const std::vector<TensorRange>& ranges,
                               json scalars, Communicator& world, SnapshotOf snapshot)
    : root_(root),
      folder_(root / JobFolder::checkpoint_name(step, attempt)),
      step_(step),
      attempt_(attempt),
      scalars_(std::move(scalars)),
      world_(world),
      snapshot_(snapshot) {
  agree(world_, "check checkpoint folder", [&] {
    MOE_CHECK(world_.rank() != 0 || !fs::exists(folder_ / kManifestName), folder_.string(),
              " is a checkpoint already; none is written twice");
    for (const TensorRange& range : ranges) {
      require_sound(range);
      // Where a sharded tensor is shorter than its ranks are many, some hold none of it: there is nothing to write.
      if (!range.is_written || (range.part.numel() == 0 && !range.is_whole())) {
        left_to_others_[range.name] = {dtype_name(range.part.scalar_type()), range.shape, {}};
        continue;
      }
      written_.push_back(range);
      if (snapshot == SnapshotOf::kCopies)
        written_.back().part =
            range.part.detach().to(at::kCPU, range.part.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    }
  });
  const std::vector<std::string> writers = world_.all_gather_bytes(written_.empty() ? "" : "w", "checkpoint writers");
  const auto count = static_cast<int>(
      std::count_if(writers.begin(), writers.end(), [](const std::string& answer) { return !answer.empty(); }));
  for (int rank = 0; rank < world_.size(); ++rank) {
    if (writers[rank].empty()) continue;
    shards_.push_back(shard_name(static_cast<int>(shards_.size()), count));
    if (rank == world_.rank()) mine_ = shards_.back();
  }
  try {
    agree(world_, "create checkpoint", [&] {
      if (world_.rank() != 0) return;
      const bool is_first = !fs::exists(root_);
      make_directories(folder_);
      if (is_first) sync_directory(fs::absolute(root_).parent_path());
    });
  } catch (const AgreedError&) {
    if (world_.rank() == 0) remove_folder(folder_);
    throw;
  }
}

CheckpointSave::~CheckpointSave() {
  is_given_up_ = true;
  if (writer_.joinable()) writer_.join();
}

void CheckpointSave::write() {
  const at::NoGradGuard no_grad;
  try {
    json described = json::object();
    if (!mine_.empty()) {
      for (const auto& [name, tensor] : write_shard(folder_ / mine_, std::move(written_), is_given_up_))
        described[name] = to_json(tensor);
    }
    described_ = described.dump();
  } catch (...) {
    failure_ = std::current_exception();
  }
  written_.clear();  // what was not written need not wait for the others either
  is_written_ = true;
}

void CheckpointSave::write_beside() {
  MOE_CHECK(snapshot_ == SnapshotOf::kCopies && !is_written_ && !writer_.joinable(), folder_.string(),
            " is to be written beside the steps: once, and of copies");
  try {
    writer_ = std::thread([this] { write(); });
    ::pthread_setname_np(writer_.native_handle(), kWriterName);
  } catch (const std::system_error&) {
    write();  // no thread is to be had
  }
}

void CheckpointSave::commit(int keep, const CheckpointAuthority& authority) {
  try {
    agree(world_, "write checkpoint shards", [&] {
      if (writer_.joinable()) writer_.join();
      if (failure_) std::rethrow_exception(failure_);
      MOE_CHECK(is_written_, "commit() before write()");
    });
    const std::vector<std::string> described = world_.all_gather_bytes(described_, "gather checkpoint manifest");
    std::map<std::string, ManifestTensor> tensors;
    agree(world_, "check that a checkpoint is complete", [&] {
      tensors = tensors_of(described);
      require_complete(tensors);
      for (const auto& [name, held] : left_to_others_) require_written(tensors, name, held);
    });
    agree(world_, "commit checkpoint", [&] {
      if (world_.rank() == 0) write_manifest(std::move(tensors), authority);
    });
  } catch (const AgreedError&) {
    if (world_.rank() == 0) remove_folder(folder_);
    throw;
  }
  // Files may take long to delete: the others wait here, not in a collective of the next step.
  agree(world_, "remove old checkpoints", [&] {
    if (world_.rank() != 0 || !is_committed_) return;
    try {
      remove_old(root_, attempt_, keep, authority);
    } catch (const std::exception& error) {  // the new one is safe; a full disk will speak for itself
      log_warning(concat("event=old_checkpoints_not_removed reason=\"", error.what(), "\""));
    }
  });
}

void CheckpointSave::give_up() {
  is_given_up_ = true;
  agree(world_, "give up checkpoint", [&] {
    if (writer_.joinable()) writer_.join();
  });
  agree(world_, "remove what was given up", [&] {
    if (world_.rank() == 0) remove_folder(folder_);
  });
}

void CheckpointSave::write_manifest(std::map<std::string, ManifestTensor> tensors,
                                    const CheckpointAuthority& authority) {
  Manifest manifest{
      .step = step_, .attempt = attempt_, .scalars = scalars_, .files = {}, .tensors = std::move(tensors)};
  for (const std::string& shard : shards_) manifest.files[shard] = fs::file_size(folder_ / shard);
  const std::string text = manifest.to_text();
  write_file_atomically(folder_ / kManifestName, text);
  sync_directory(root_);
  if (!authority.commit) return;
  int64_t bytes = 0;
  for (const auto& [name, size] : manifest.files) bytes += static_cast<int64_t>(size);
  is_committed_ = authority.commit({folder_.filename().string(), step_, xxh3_hex(text), bytes});
}

void save_checkpoint(const fs::path& root, int64_t step, int attempt, const std::vector<TensorRange>& ranges,
                     const json& scalars, Communicator& world, int keep, const CheckpointAuthority& authority) {
  CheckpointSave save(root, step, attempt, ranges, scalars, world, SnapshotOf::kTensors);
  save.write();
  save.commit(keep, authority);
}

std::optional<json> load_newest_checkpoint(const fs::path& root, const std::vector<TensorRange>& ranges,
                                           Communicator& world, const CheckpointAuthority& authority) {
  const at::NoGradGuard no_grad;
  const json candidates = json::parse(agree_on_result(world, "list checkpoints", [&] {
    if (authority.resumable) return json(*authority.resumable).dump();
    json names = json::array();
    for (const Folder& folder : checkpoint_folders(root)) {
      if (folder.is_complete) names.push_back(folder.path.filename().string());
    }
    return names.dump();
  }));
  std::string reasons;
  for (const json& name : candidates) {
    const fs::path folder = root / name.get<std::string>();
    json scalars;
    bool accepted = true;
    try {
      agree(world, "load checkpoint", [&] {
        const Manifest manifest = Manifest::read(folder);
        if (JobFolder::checkpoint_name(manifest.step, manifest.attempt) != name) {
          throw Corruption(concat((folder / kManifestName).string(), " is that of ",
                                  JobFolder::checkpoint_name(manifest.step, manifest.attempt)));
        }
        scalars = manifest.scalars;
        accepted = authority.resumable || !authority.is_ours || authority.is_ours(scalars);
        if (accepted) read_ranges(folder, manifest, ranges);
      });
    } catch (const InvalidArgument& error) {  // agree() throws the same on every rank
      if (world.rank() == 0)
        log_warning(concat("event=checkpoint_unreadable path=", folder.string(), " reason=\"", error.what(), "\""));
      reasons += concat("\n  ", error.what());
      continue;
    }
    if (accepted) return scalars;
  }
  if (!reasons.empty())
    throw_agreed<NoReadableCheckpoint>("no checkpoint below " + root.string() + " can be read:" + reasons);
  return std::nullopt;
}

}  // namespace moe
