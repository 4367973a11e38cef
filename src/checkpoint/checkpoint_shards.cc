#include "checkpoint/checkpoint_shards.h"

#include <algorithm>
#include <memory>

#include "checkpoint/dtypes.h"
#include "checkpoint/finite.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Of a part in its file.
std::string entry_name(const std::string& name, const std::vector<int64_t>& shape, int64_t first, int64_t count) {
  if (first == 0 && count == elements_of(shape)) return name;
  return concat(name, "[", first, ":", first + count, "]");
}

/// Reads parts of one folder; keeps its files mapped.
class ShardReader {
 public:
  explicit ShardReader(fs::path folder) : folder_(std::move(folder)) {}

  /// Into range.part.
  void read(const TensorRange& range, const ManifestTensor& stored) {
    if (stored.shape != range.shape || stored.dtype != dtype_name(range.part.scalar_type())) {
      throw Corruption(concat((folder_ / stored.parts.front().file).string(), ": tensor '", range.name,
                              "' has another shape or type than the model's"));
    }
    if (range.is_whole() && stored.parts.size() == 1) {
      range.part.copy_(part_of(range.name, stored, stored.parts.front(), 0, range.part.numel()).view(range.shape));
      return;
    }
    const int64_t count = range.part.numel(), end = range.first + count;
    at::Tensor elements = at::empty({count}, range.part.options());
    int64_t filled = 0;
    for (const ManifestPart& part : stored.parts) {
      const int64_t from = std::max(range.first, part.first), to = std::min(end, part.first + part.count);
      if (from >= to) continue;
      elements.narrow(0, from - range.first, to - from)
          .copy_(part_of(range.name, stored, part, from - part.first, to - from));
      filled += to - from;
    }
    if (filled != count)
      throw Corruption(concat(folder_.string(), ": of tensor '", range.name, "' ", filled, " of the elements from ",
                              range.first, " to ", end, " are there"));
    range.part.copy_(elements.view(range.part.sizes()));
  }

 private:
  /// Elements [begin, begin + count) of a part, verified.
  at::Tensor part_of(const std::string& name, const ManifestTensor& tensor, const ManifestPart& part, int64_t begin,
                     int64_t count) {
    auto& file = files_[part.file];
    if (!file) file = std::make_unique<SafetensorsFile>(folder_ / part.file);
    const at::Tensor stored = file->tensor(entry_name(name, tensor.shape, part.first, part.count)).reshape({-1});
    if (stored.numel() != part.count || dtype_name(stored.scalar_type()) != tensor.dtype) {
      throw Corruption(concat((folder_ / part.file).string(), ": tensor '", name,
                              "' has another shape or type than the manifest says"));
    }
    if (!chunks_match(stored, part.chunks, begin, count)) {
      throw Corruption(concat((folder_ / part.file).string(), ": tensor '", name, "' does not match its digest"));
    }
    return stored.narrow(0, begin, count);
  }

  fs::path folder_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;
};

}  // namespace

void require_sound(const TensorRange& range) {
  const int64_t all = elements_of(range.shape), count = range.part.numel();
  MOE_CHECK(range.first >= 0 && range.first + count <= all, "'", range.name, "': elements from ", range.first, " to ",
            range.first + count, " of ", all);
  MOE_CHECK(range.part.sizes() == at::IntArrayRef(range.shape) || (!range.is_whole() && range.part.dim() == 1), "'",
            range.name, "': a part of a tensor is a list of elements, the whole has its shape");
}

std::map<std::string, ManifestTensor> write_shard(const fs::path& path, std::vector<TensorRange>&& ranges,
                                                  const std::atomic<bool>& is_given_up) {
  const auto require_wanted = [&] {
    if (is_given_up) throw StorageError(concat("writing ", path.string(), " was given up"));
  };
  std::vector<SafetensorsWriter::Spec> specs;
  for (const TensorRange& range : ranges) {
    specs.push_back({entry_name(range.name, range.shape, range.first, range.part.numel()), range.part.scalar_type(),
                     range.part.sizes().vec()});
  }
  SafetensorsWriter writer(path, specs);
  std::map<std::string, ManifestTensor> described;
  for (size_t i = 0; i < ranges.size(); ++i) {
    require_wanted();
    TensorRange& range = ranges[i];
    const at::Tensor data = range.part.detach().cpu().contiguous();
    range.part.reset();
    if (const int64_t bad = count_non_finite(data); bad > 0) {
      throw Diverged(concat("'", range.name, "' holds ", bad, " values of ", data.numel(),
                            " that are not finite; no checkpoint is written of it"));
    }
    writer.write(specs[i].name, data);
    add_parts(described, range.name,
              {dtype_name(data.scalar_type()),
               range.shape,
               {{range.first, data.numel(), path.filename(), chunk_digests(data)}}});
  }
  require_wanted();  // a sync may take as long as all before it
  writer.finish();
  return described;
}

void read_ranges(const fs::path& folder, const Manifest& manifest, const std::vector<TensorRange>& ranges) {
  ShardReader reader(folder);
  for (const TensorRange& range : ranges) {
    const auto found = manifest.tensors.find(range.name);
    if (found == manifest.tensors.end())
      throw Corruption(concat(folder.string(), ": tensor '", range.name, "' is missing"));
    reader.read(range, found->second);
  }
}

}  // namespace moe
