#include "checkpoint/model_directory.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/dtypes.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/json_text.h"
#include "model/parameters.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kMaxListed = 20;

std::string listed(const std::string& what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string text = "\n  " + what + ":";
  for (size_t i = 0; i < std::min(names.size(), kMaxListed); ++i) text += (i == 0 ? " " : ", ") + names[i];
  if (names.size() > kMaxListed) text += concat(", and ", names.size() - kMaxListed, " more");
  return text;
}

/// The weight files, with every check of the index.
std::vector<std::shared_ptr<SafetensorsFile>> open_shards(const fs::path& path) {
  const std::string where = (path / kIndex).string();
  const nlohmann::json index = parse_json(read_file(path / kIndex), where);
  if (!index.is_object()) throw Corruption(concat(where, " is ", quoted_json(index), "; expected an object"));
  if (!index.contains("weight_map")) throw Corruption(where + ": `weight_map` is missing");
  if (!index["weight_map"].is_object() || index["weight_map"].empty()) {
    throw Corruption(concat(where, ": `weight_map` is ", quoted_json(index["weight_map"]), "; expected an object of tensor names and files"));
  }
  if (index.contains("metadata") && !index["metadata"].is_object()) {
    throw Corruption(concat(where, ": `metadata` is ", quoted_json(index["metadata"]), "; expected an object"));
  }
  std::map<std::string, std::set<std::string>> names_of;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) throw Corruption(concat(where, ": the file of '", name, "' is ", quoted_json(file), "; expected a name"));
    const std::string shard = file.get<std::string>();
    const bool is_plain = !shard.empty() && shard != "." && shard != ".." && fs::path(shard).filename() == shard;
    if (!is_plain) throw Corruption(concat(where, ": '", shard, "' is not a plain file name"));
    names_of[shard].insert(name);
  }
  std::vector<std::shared_ptr<SafetensorsFile>> files;
  std::map<std::string, std::string> owner;
  for (const auto& [shard, names] : names_of) {
    if (!fs::exists(path / shard)) throw InvalidArgument(concat(where, " names ", shard, ", which is not in the folder"));
    files.push_back(std::make_shared<SafetensorsFile>(path / shard));
    for (const SafetensorsEntry& entry : files.back()->header().entries) {
      const auto [other, is_new] = owner.emplace(entry.name, shard);
      if (!is_new) throw Corruption(concat((path / other->second).string(), ": tensor '", entry.name, "' is in ", shard, " too"));
    }
    for (const std::string& name : names) {
      if (files.back()->find(name) == nullptr) throw Corruption(concat(where, ": '", name, "' is not in ", shard));
    }
  }
  return files;
}

std::vector<std::shared_ptr<SafetensorsFile>> open_weights(const fs::path& path) {
  // An index that does not name the single file wins over it (one that does names nothing else).
  if (fs::exists(path / kIndex)) return open_shards(path);
  if (fs::exists(path / kSingle)) return {std::make_shared<SafetensorsFile>(path / kSingle)};
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename();
    if (name.rfind("pytorch_model", 0) == 0 || entry.path().extension() == ".pth") {
      throw InvalidArgument(concat(path.string(), ": ", name, " is a pickle, which can run code when it is loaded; convert it to safetensors first"));
    }
  }
  throw InvalidArgument(concat(path.string(), ": neither ", kSingle, " nor ", kIndex, " is there"));
}

bool is_ignored(const std::string& name) {
  constexpr std::string_view kSuffix = ".rotary_emb.inv_freq";
  return name.size() > kSuffix.size() && name.compare(name.size() - kSuffix.size(), kSuffix.size(), kSuffix) == 0;
}

/// Values whose exponent bits are all set: NaN and infinities. On the bits, without a copy, at the speed of memory.
template <typename Word>
int64_t count_non_finite(const at::Tensor& tensor, Word exponent) {
  const auto* const data = static_cast<const Word*>(tensor.const_data_ptr());
  constexpr int64_t kBlock = 4096;
  int64_t bad = 0;
  for (int64_t first = 0; first < tensor.numel(); first += kBlock) {
    const int64_t last = std::min(first + kBlock, tensor.numel());
    Word any = 0;
    for (int64_t i = first; i < last; ++i) any |= static_cast<Word>((data[i] & exponent) == exponent);
    if (any == 0) continue;
    bad += std::count_if(data + first, data + last, [exponent](Word word) { return (word & exponent) == exponent; });
  }
  return bad;
}

int64_t count_non_finite(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16: return count_non_finite<uint16_t>(tensor, 0x7f80);
    case at::kHalf: return count_non_finite<uint16_t>(tensor, 0x7c00);
    case at::kFloat: return count_non_finite<uint32_t>(tensor, 0x7f800000);
    case at::kDouble: return count_non_finite<uint64_t>(tensor, 0x7ff0000000000000);
    default: return 0;
  }
}

std::string shape_text(const std::vector<int64_t>& shape) { return nlohmann::json(shape).dump(); }

}  // namespace

ModelDirectory::ModelDirectory(const fs::path& path) : path_(path) {
  if (!fs::is_directory(path)) throw InvalidArgument(path.string() + " is not a model directory: no such folder");
  config_ = parse_model_config(read_file(path / "config.json"), (path / "config.json").string());
  files_ = open_weights(path);
  if (!config_.stock_layout.empty()) stock_.emplace(config_);
  check_tensors();
  if (stock_) adapt_stock();
}

/// Contents that decide what the model is.
void ModelDirectory::adapt_stock() {
  const auto read = [this](const std::string& name) { return stored_tensor(name); };
  if (stock_->is_shared_expert_zero(read)) {
    stock_->drop_shared_expert(config_);
  } else {
    stock_->check_constants(read, path_.string());
  }
}

const SafetensorsFile* ModelDirectory::file_of(const std::string& name) const {
  for (const auto& file : files_) {
    if (file->find(name) != nullptr) return file.get();
  }
  return nullptr;
}

void ModelDirectory::check_tensors() const {
  std::map<std::string, std::vector<int64_t>> expected;
  std::vector<std::string> missing, unexpected, mismatched;
  for (const TensorSpec& spec : stock_ ? stock_->stored_specs() : logical_tensor_specs(config_)) {
    expected[spec.name] = spec.shape;
    const SafetensorsFile* file = file_of(spec.name);
    if (file == nullptr) {
      missing.push_back(spec.name);
      continue;
    }
    const SafetensorsEntry& entry = *file->find(spec.name);
    if (entry.shape != spec.shape) {
      mismatched.push_back(concat(spec.name, " is ", shape_text(entry.shape), ", expected ", shape_text(spec.shape)));
    }
    const std::optional<at::ScalarType> type = scalar_type_of(entry.dtype);
    if (!type || !is_weight_type(*type)) {
      mismatched.push_back(concat(spec.name, " has dtype ", entry.dtype, ", expected F32, F16, BF16 or F64"));
    }
  }
  for (const auto& file : files_) {
    for (const SafetensorsEntry& entry : file->header().entries) {
      if (expected.contains(entry.name) || is_ignored(entry.name)) continue;
      const bool is_tied_head = entry.name == "lm_head.weight" && config_.tie_word_embeddings;
      if (is_tied_head && file_of("model.embed_tokens.weight") != nullptr) {
        const SafetensorsFile& other = *file_of("model.embed_tokens.weight");
        const SafetensorsEntry& tied = *other.find("model.embed_tokens.weight");
        const auto head = file->bytes(entry), embedding = other.bytes(tied);
        const bool is_same_kind = entry.dtype == tied.dtype && entry.shape == tied.shape;
        const bool is_equal = is_same_kind && std::equal(head.begin(), head.end(), embedding.begin(), embedding.end());
        file->release(entry.name);
        other.release(tied.name);
        if (is_equal) continue;
      }
      unexpected.push_back(entry.name + (is_tied_head ? " (tie_word_embeddings is true and it differs from the embedding)" : ""));
    }
  }
  if (missing.empty() && unexpected.empty() && mismatched.empty()) return;
  throw Corruption(concat(files_.front()->path().string(), files_.size() > 1 ? " and the other shards" : "", " do not match ",
                          (path_ / "config.json").string(), ":", listed("missing", missing), listed("unexpected", unexpected),
                          listed("mismatched", mismatched)));
}

at::Tensor ModelDirectory::stored_tensor(const std::string& name) const {
  const SafetensorsFile* file = file_of(name);
  if (file == nullptr) throw InvalidArgument(concat(path_.string(), ": no tensor '", name, "'"));
  return file->tensor(name);
}

const std::string& ModelDirectory::stored_name(const std::string& name) const { return stock_ ? stock_->stored_name(name) : name; }

at::Tensor ModelDirectory::tensor(const std::string& name) const {
  const std::string& stored = stored_name(name);
  at::Tensor tensor = stored_tensor(stored);
  if (stock_) tensor = stock_->native_part(name, tensor);
  if (const int64_t bad = count_non_finite(tensor); bad > 0) {
    throw Corruption(concat(file_of(stored)->path().string(), ": tensor '", stored, "' holds ", bad, " values of ", tensor.numel(),
                            " that are not finite (NaN or infinite)"));
  }
  return tensor;
}

at::ScalarType ModelDirectory::tensor_type(const std::string& name) const {
  const std::string& stored = stored_name(name);
  const SafetensorsFile* file = file_of(stored);
  if (file == nullptr) throw InvalidArgument(concat(path_.string(), ": no tensor '", name, "'"));
  return *scalar_type_of(file->find(stored)->dtype);
}

std::string ModelDirectory::stored_dtype() const { return files_.front()->header().entries.front().dtype; }

void ModelDirectory::release(const std::string& name) const {
  const std::string& stored = stored_name(name);
  if (const SafetensorsFile* file = file_of(stored)) file->release(stored);
}

std::string ModelDirectory::digest() const {
  std::string text = xxh3_hex_of_file(path_ / "config.json");
  for (const auto& file : files_) text += file->path().filename().string() + xxh3_hex_of_file(file->path());
  return xxh3_hex(text);
}

Decoder load_decoder(const ModelDirectory& directory, at::ScalarType dtype, ExpertRange experts) {
  const at::NoGradGuard no_grad;
  Decoder decoder(directory.config(), dtype, experts);
  for (const Parameter& parameter : decoder.parameters()) {
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
      at::Tensor view = logical.view;
      const at::Tensor stored = directory.tensor(logical.name);
      view.copy_(stored);
      if (stored.scalar_type() == at::kDouble && dtype != at::kDouble && !at::isfinite(view).all().item<bool>()) {
        throw InvalidArgument(concat(directory.path().string(), ": tensor '", logical.name, "' holds values too large for ",
                                     c10::toString(dtype), "; use float64"));
      }
      directory.release(logical.name);
    }
  }
  return decoder;
}

}  // namespace moe
