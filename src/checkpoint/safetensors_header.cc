#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "common/error.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kLengthBytes = 8;
/// LibTorch's tensors have at most 64 dimensions; without a limit a hostile header would take many times its size.
constexpr size_t kMaxDimensions = 64;
/// Each takes more room in a map than in the file.
constexpr size_t kMaxMetadata = 65536;
constexpr std::string_view kMetadata = "__metadata__";
/// JSON of the shortest entry: "a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},
constexpr size_t kLeastEntryBytes = 52;

/// Bits of an element, by the names of the format.
std::optional<uint64_t> bits_of(const std::string& dtype) {
  static const std::map<std::string, uint64_t> bits{
      {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
      {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},        {"F32", 32},    {"F64", 64},    {"I64", 64},    {"U64", 64},
      {"C64", 64},        {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? std::nullopt : std::optional(found->second);
}

/// In quotation marks and on one line, cut where it is long; a name may hold anything.
std::string in_quotes(std::string_view text) {
  const std::string cut(text.substr(0, kMaxQuoted));
  const std::string line = json(cut).dump(-1, ' ', false, json::error_handler_t::replace);
  return "'" + line.substr(1, line.size() - 2) + (text.size() > kMaxQuoted ? "..." : "") + "'";
}

std::string listed(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(shape[i]);
  return text + "]";
}

/// Takes the header's JSON event by event into entries. A parser to a tree would hide a key that stands twice and hold
/// many times the header's size.
class HeaderReader final : public json::json_sax_t {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& where, size_t header_bytes)
      : header_(header), where_(where) {
    header_.entries.reserve(header_bytes / kLeastEntryBytes + 1);  // never grows: growing takes three times the room
  }

  bool null() override { return wrong("null"); }
  bool boolean(bool value) override { return wrong(value ? "true" : "false"); }
  bool number_integer(json::number_integer_t value) override { return wrong(std::to_string(value)); }
  bool number_float(json::number_float_t, const json::string_t& text) override {
    return wrong(text.substr(0, kMaxQuoted));
  }
  bool binary(json::binary_t&) override { return wrong("binary"); }

  bool number_unsigned(json::number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (value > INT64_MAX) fail(tensor(), " has a shape too large: ", value);
      if (entry().shape.size() == kMaxDimensions) fail(tensor(), " has more than ", kMaxDimensions, " dimensions");
      entry().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ != Place::kOffsets) return wrong(std::to_string(value));
    if (offsets_ == 2) fail(tensor(), " has more than two data_offsets; expected [begin, end]");
    (offsets_++ == 0 ? entry().begin : entry().end) = value;
    return true;
  }

  bool string(json::string_t& text) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[metadata_key_] = std::move(text);
      return true;
    }
    if (place_ != Place::kEntry || field_ != "dtype") return wrong(in_quotes(text));
    if (!bits_of(text)) fail(tensor(), " has the unknown dtype ", in_quotes(text));
    entry().dtype = std::move(text);
    return true;
  }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kOutside: place_ = Place::kTop; return true;
      case Place::kTop:
        place_ = is_metadata_ ? Place::kMetadata : Place::kEntry;
        seen_ = {};
        return true;
      default: return wrong("an object");
    }
  }

  bool key(json::string_t& key) override {
    if (place_ == Place::kTop) {
      is_metadata_ = key == kMetadata;
      if (is_metadata_ && std::exchange(has_metadata_, true)) fail("'", kMetadata, "' stands twice in the header");
      if (!is_metadata_) header_.entries.emplace_back().name = std::move(key);
    } else if (place_ == Place::kMetadata) {
      if (header_.metadata.contains(key)) fail(in_quotes(key), " stands twice in ", kMetadata);
      if (header_.metadata.size() == kMaxMetadata) fail(kMetadata, " holds more than ", kMaxMetadata, " entries");
      metadata_key_ = std::move(key);
    } else {
      const auto known = std::find(kFields.begin(), kFields.end(), key);
      if (known == kFields.end()) fail(tensor(), " has fields besides dtype, shape and data_offsets: ", in_quotes(key));
      if (std::exchange(seen_[static_cast<size_t>(known - kFields.begin())], true))
        fail("'", key, "' stands twice in the header, in ", tensor());
      field_ = *known;
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry) finish_entry();
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kEntry || field_ == "dtype") return wrong("a list");
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    offsets_ = 0;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_ != 2)
      fail(tensor(), " has ", offsets_, " data_offsets; expected [begin, end]");
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception& error) override {
    // The parser quotes what it read last, which may be long and anything.
    fail("the header is not valid JSON at byte ", position, ": ", in_quotes(error.what()));
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kEntry, kShape, kOffsets };
  static constexpr std::array<std::string_view, 3> kFields{"dtype", "shape", "data_offsets"};

  template <typename... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw Corruption(concat(where_, ": ", args...));
  }

  SafetensorsEntry& entry() { return header_.entries.back(); }
  std::string tensor() { return "tensor " + in_quotes(entry().name); }

  /// Refuses a value of a kind that has no place here.
  [[noreturn]] bool wrong(const std::string& value) {
    switch (place_) {
      case Place::kTop:
        if (is_metadata_) fail(kMetadata, " is ", value, "; expected an object of strings");
        fail(tensor(), " is ", value, "; expected an object of dtype, shape and data_offsets");
      case Place::kMetadata:
        fail(kMetadata, ".", in_quotes(metadata_key_), " is ", value, "; only strings are allowed");
      case Place::kShape: fail(tensor(), " has ", value, " in its shape; expected integers from 0");
      case Place::kOffsets: fail(tensor(), " has ", value, " in its data_offsets; expected [begin, end]");
      case Place::kEntry:
        if (field_ == "dtype") fail(tensor(), " has the unknown dtype ", value);
        if (field_ == "shape") fail(tensor(), " has the shape ", value, "; expected a list of integers");
        fail(tensor(), " has the data_offsets ", value, "; expected [begin, end]");
      case Place::kOutside: break;
    }
    fail("the header is ", value, "; expected an object");
  }

  void finish_entry() {
    for (size_t i = 0; i < kFields.size(); ++i) {
      if (!seen_[i]) fail(tensor(), " has no ", kFields[i]);
    }
    const SafetensorsEntry& read = entry();
    uint64_t bits = *bits_of(read.dtype);
    for (const int64_t extent : read.shape) {
      if (__builtin_mul_overflow(bits, static_cast<uint64_t>(extent), &bits))
        fail(tensor(), " has a shape too large: ", listed(read.shape));
    }
    if (bits % 8 != 0) fail(tensor(), " ", read.dtype, " ", listed(read.shape), " does not fill whole bytes");
    if (read.end < read.begin || read.end - read.begin != bits / 8) {
      fail(tensor(), " ", read.dtype, " ", listed(read.shape), " needs ", bits / 8, " bytes, its data_offsets are [",
           read.begin, ",", read.end, "]");
    }
  }

  SafetensorsHeader& header_;
  const std::string& where_;
  Place place_ = Place::kOutside;
  bool is_metadata_ = false;  ///< the value that comes is that of __metadata__
  bool has_metadata_ = false;
  std::string metadata_key_;
  std::string_view field_;  ///< of the entry, one of kFields
  std::array<bool, kFields.size()> seen_{};
  int offsets_ = 0;  ///< of the two, read so far
};

class HeaderCheck {
 public:
  HeaderCheck(std::span<const std::byte> bytes, uint64_t file_size, const std::string& where)
      : bytes_(bytes), file_size_(file_size), where_(where) {}

  SafetensorsHeader read() {
    const std::string_view text = header_text();
    HeaderReader reader(header_, where_, text.size());
    json::sax_parse(text.begin(), text.end(), &reader);
    check_names();
    check_tiling();
    return std::move(header_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw Corruption(concat(where_, ": ", args...));
  }

  std::string_view header_text() {
    if (file_size_ < kLengthBytes || bytes_.size() < kLengthBytes)
      fail("a safetensors file has at least 8 bytes, this one ", file_size_);
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), kLengthBytes);
    if (length > kMaxHeaderBytes)
      fail("the header's length is ", length, " bytes, over the limit of ", kMaxHeaderBytes,
           "; not a safetensors file?");
    if (length > file_size_ - kLengthBytes || length > bytes_.size() - kLengthBytes) {
      fail("the header's length is ", length, " bytes, more than the file of ", file_size_,
           " bytes holds; is it truncated?");
    }
    header_.data_offset = kLengthBytes + length;
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes, length);
    if (text.empty() || text.front() != '{') fail("the header does not start with '{'");
    // The JSON parser takes a NUL for the end of the text: whatever follows would pass unseen.
    if (const size_t nul = text.find('\0'); nul != std::string_view::npos) fail("the header holds a NUL at byte ", nul);
    // It also quotes white space behind an error eight times as long as it is.
    const auto breaks =
        std::count_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; });
    if (breaks > kMaxBreaks)
      fail("the header holds ", breaks, " line breaks and tabs; at most ", kMaxBreaks, " are read");
    return text;
  }

  void check_names() {
    std::vector<SafetensorsEntry>& entries = header_.entries;
    std::sort(entries.begin(), entries.end(),
              [](const SafetensorsEntry& a, const SafetensorsEntry& b) { return a.name < b.name; });
    const auto twice =
        std::adjacent_find(entries.begin(), entries.end(),
                           [](const SafetensorsEntry& a, const SafetensorsEntry& b) { return a.name == b.name; });
    if (twice != entries.end()) fail("tensor ", in_quotes(twice->name), " stands twice in the header");
  }

  void check_tiling() {
    std::sort(header_.entries.begin(), header_.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t end = 0;
    for (const SafetensorsEntry& entry : header_.entries) {
      if (entry.begin < end)
        fail("tensor ", in_quotes(entry.name), " overlaps the one before it (begins at ", entry.begin, ", not ", end,
             ")");
      if (entry.begin > end)
        fail("there is a hole of ", entry.begin - end, " bytes before tensor ", in_quotes(entry.name));
      end = entry.end;
    }
    const uint64_t available = file_size_ - header_.data_offset;
    if (end > available) fail("the tensors need ", end, " bytes and the file holds ", available, "; is it truncated?");
    if (end < available) fail("there are ", available - end, " bytes behind the last tensor");
  }

  static constexpr int64_t kMaxBreaks = 65536;
  std::span<const std::byte> bytes_;
  uint64_t file_size_;
  const std::string& where_;
  SafetensorsHeader header_;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, uint64_t file_size,
                                           const std::string& where) {
  return HeaderCheck(bytes, file_size, where).read();
}

}  // namespace moe
