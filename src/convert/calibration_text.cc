#include "convert/calibration_text.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "data/data_loader.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int64_t kLongestRow = 512;
/// Counts changes of how the same text becomes rows: what an older program kept is not taken for ours.
constexpr int kCalibrationVersion = 1;
constexpr const char* kRowsPart = "rows";  // in the store

/// Rows of the whole world.
struct PackedRows {
  at::Tensor tokens_T, labels_T;  ///< int64, as TextRows has them
  std::vector<int64_t> cu_seqlens, row_begin;
};

/// What is kept of a calibration.
struct PackedCalibration {
  PackedRows fitted, receipt;
  bool receipt_is_held_out = false;
  std::string chat_template;
};

PackingOptions packing_of(uint64_t seed, const ModelConfig& config, const ModelText& reading) {
  PackingOptions packing;
  packing.sequence_length = std::min(kLongestRow, config.max_positions);
  packing.seed = seed;
  packing.vocab_size = config.vocab_size;
  packing.one_pass = true;
  packing.chat_template = reading.chat_template;
  packing.chat.supervise = "whole";
  packing.long_chats = "split";
  return packing;
}

/// All that decides the rows. Of files what they hold, not where they lie.
json identity_of(const v1::ConvertSpec& spec, const PackingOptions& packing, const ModelText& reading,
                 const std::map<std::string, std::string>& file_digests) {
  json files = json::array();
  for (const v1::DataSource& source : spec.calibration().data()) {
    files.push_back({{"xxh3_128", file_digests.at(source.path())},
                     {"weight", source.weight()},
                     {"max_documents", source.max_documents()},
                     {"special_tokens", source.special_tokens()}});
  }
  return {{"version", kCalibrationVersion},
          {"files", files},
          {"tokens", spec.calibration().tokens()},
          {"receipt_tokens", {kReceiptTokens, kLeastHeldOutTokens}},
          {"chat_template", packing.chat_template.name},
          {"tokenizer", reading.tokenizer ? reading.tokenizer->digest() : ""},
          {"vocab_size", packing.vocab_size},
          {"row_tokens", packing.sequence_length},
          {"seed", packing.seed}};
}

/// Where the tokens of rows from `first` on begin, until there are `tokens` of them or, if `rows` is given, that many
/// rows; the end is the last.
std::vector<int64_t> row_begins(DataLoader& loader, int64_t first, int64_t tokens, int64_t rows = -1) {
  std::vector<int64_t> begin{0};
  for (int64_t row = first; begin.back() < tokens && (rows < 0 ? loader.has_row(row) : row < first + rows); ++row)
    begin.push_back(begin.back() + loader.tokens(row, 1));
  return begin;
}

PackedRows packed(DataLoader& loader, int64_t first_row, std::vector<int64_t> row_begin) {
  const PackedBatch batch = loader.batch(first_row, static_cast<int64_t>(row_begin.size()) - 1);
  return {batch.tokens_T, batch.labels_T, batch.cu_seqlens, std::move(row_begin)};
}

PackedCalibration pack(const v1::ConvertSpec& spec, const PackingOptions& packing, const ModelText& reading,
                       const std::map<std::string, std::string>& file_digests) {
  DataLoader loader(data_files(spec.calibration().data()), reading.tokenizer, packing);
  if (loader.file_digests() != file_digests)
    throw StorageError("convert: a file of calibration.data was changed while it was read; start again");
  const int64_t asked = spec.calibration().tokens();
  std::vector<int64_t> fitted = row_begins(loader, 0, asked);
  if (fitted.back() < asked) {
    throw InvalidArgument(concat("convert: calibration.tokens is ", asked, " and the files of calibration.data hold ",
                                 fitted.back(),
                                 " tokens; no document is used twice: give more text, or set calibration.tokens to ",
                                 fitted.back(), " or less"));
  }
  const auto rows = static_cast<int64_t>(fitted.size()) - 1;
  std::vector<int64_t> following = row_begins(loader, rows, kReceiptTokens);
  PackedCalibration calibration;
  calibration.fitted = packed(loader, 0, std::move(fitted));
  calibration.receipt_is_held_out = following.back() >= kLeastHeldOutTokens;
  calibration.receipt = calibration.receipt_is_held_out
                            ? packed(loader, rows, std::move(following))
                            : packed(loader, 0, row_begins(loader, 0, kReceiptTokens, rows));
  if (loader.has_chats()) calibration.chat_template = reading.chat_template.name;
  return calibration;
}

// int32 in the store: ids are, and so are counts of tokens that fit a memory.

void add_rows(const std::string& name, const PackedRows& rows, CalibrationStore::Entry& entry) {
  entry.tensors.emplace_back(name + ".tokens", rows.tokens_T.to(at::kInt));
  entry.tensors.emplace_back(name + ".labels", rows.labels_T.to(at::kInt));
  entry.tensors.emplace_back(name + ".document_begin", at::tensor(rows.cu_seqlens, at::kInt));
  entry.tensors.emplace_back(name + ".row_begin", at::tensor(rows.row_begin, at::kInt));
}

std::vector<int64_t> numbers_of(const at::Tensor& stored) {
  const at::Tensor numbers = stored.to(at::kLong).contiguous();
  return {numbers.const_data_ptr<int64_t>(), numbers.const_data_ptr<int64_t>() + numbers.numel()};
}

PackedRows stored_rows(const std::string& name, const CalibrationStore::Entry& entry) {
  return {entry.tensor(name + ".tokens").to(at::kLong), entry.tensor(name + ".labels").to(at::kLong),
          numbers_of(entry.tensor(name + ".document_begin")), numbers_of(entry.tensor(name + ".row_begin"))};
}

CalibrationStore::Entry to_entry(const PackedCalibration& calibration, const json& identity) {
  CalibrationStore::Entry entry{.facts = {{"of", identity},
                                          {"tokens", calibration.fitted.row_begin.back()},
                                          {"documents", calibration.fitted.cu_seqlens.size() - 1},
                                          {"chat_template", calibration.chat_template},
                                          {"receipt_is_held_out", calibration.receipt_is_held_out}},
                                .tensors = {}};
  add_rows("fitted", calibration.fitted, entry);
  add_rows("receipt", calibration.receipt, entry);
  return entry;
}

PackedCalibration from_entry(const CalibrationStore::Entry& entry) {
  return {.fitted = stored_rows("fitted", entry),
          .receipt = stored_rows("receipt", entry),
          .receipt_is_held_out = entry.facts.at("receipt_is_held_out"),
          .chat_template = entry.facts.at("chat_template")};
}

/// The rows of this rank.
TextRows rows_of_rank(const PackedRows& all, const Communicator& world) {
  const auto rows = static_cast<int64_t>(all.row_begin.size()) - 1;
  const int64_t first = rows * world.rank() / world.size(), last = rows * (world.rank() + 1) / world.size();
  const int64_t begin = all.row_begin[first], end = all.row_begin[last];
  TextRows mine{.tokens_T = all.tokens_T.slice(0, begin, end).clone(),
                .labels_T = all.labels_T.slice(0, begin, end).clone(),
                .cu_seqlens = {},
                .first_row = first,
                .row_begin = {},
                .first_token = begin,
                .total_tokens = all.row_begin.back()};
  for (const int64_t document : all.cu_seqlens) {
    if (document >= begin && document <= end) mine.cu_seqlens.push_back(document - begin);
  }
  for (int64_t row = first; row <= last; ++row) mine.row_begin.push_back(all.row_begin[row] - begin);
  return mine;
}

/// Of the store if every rank sees it there, else made anew, by all, and kept. Collective.
PackedCalibration find_or_pack(const std::string& digest, const json& identity, const CalibrationStore& store,
                               const std::function<PackedCalibration()>& make, Communicator& world) {
  const std::optional<CalibrationStore::Entry> stored = store.read(digest, kRowsPart);
  if (!any_rank(world, "calibration that is not kept", !stored)) {
    if (world.rank() == 0) log_info(concat("event=calibration_reused calibration=", digest, " part=", kRowsPart));
    return from_entry(*stored);
  }
  PackedCalibration calibration;
  agree(world, "read calibration text", [&] { calibration = make(); });
  agree(world, "keep the calibration text", [&] {
    if (world.rank() == 0) store.write(digest, kRowsPart, to_entry(calibration, identity));
  });
  return calibration;
}

}  // namespace

std::vector<int64_t> TextRows::row_cu_seqlens(int64_t row) const {
  std::vector<int64_t> cu_seqlens_of_row;
  for (const int64_t begin : cu_seqlens) {
    if (begin >= row_begin[row] && begin <= row_begin[row + 1]) cu_seqlens_of_row.push_back(begin - row_begin[row]);
  }
  return cu_seqlens_of_row;
}

CalibrationText read_calibration_text(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config,
                                      const ModelText& reading, Communicator& world, const CalibrationStore& store) {
  const PackingOptions packing = packing_of(seed, config, reading);
  CalibrationText text;
  json identity;
  agree(world, "digest of the calibration text", [&] {
    for (const v1::DataSource& source : spec.calibration().data())
      text.file_digests[source.path()] = xxh3_hex_of_file(source.path());
    identity = identity_of(spec, packing, reading, text.file_digests);
    text.digest = xxh3_hex(identity.dump());
  });
  std::map<std::string, std::string> facts = text.file_digests;
  facts["files and tokenizer"] = text.digest;
  require_same_files(world, "calibration text", facts);

  const PackedCalibration all = find_or_pack(
      text.digest, identity, store, [&] { return pack(spec, packing, reading, text.file_digests); }, world);
  static_cast<TextRows&>(text) = rows_of_rank(all.fitted, world);
  text.receipt = rows_of_rank(all.receipt, world);
  text.receipt_is_held_out = all.receipt_is_held_out;
  text.chat_template = all.chat_template;
  return text;
}

}  // namespace moe
