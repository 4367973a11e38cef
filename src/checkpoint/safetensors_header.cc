#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "checkpoint/safetensors.h"
#include "common/error.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kLengthBytes = 8;

/// Bits of an element, by the names of the format.
std::optional<uint64_t> bits_of(const std::string& dtype) {
  static const std::map<std::string, uint64_t> bits{
      {"BOOL", 8},        {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
      {"I16", 16},        {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},    {"U32", 32},    {"F32", 32},        {"F64", 64},
      {"I64", 64},        {"U64", 64}, {"C64", 64}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? std::nullopt : std::optional(found->second);
}

/// Finds an object key that stands twice: the DOM would hide it.
class DuplicateKeys final : public json::json_sax_t {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(json::number_integer_t) override { return true; }
  bool number_unsigned(json::number_unsigned_t) override {
    if (arrays_ == 0 || ++elements_ <= kMaxElements) return true;
    error_ = concat("refused: an array holds more than ", kMaxElements, " numbers");
    return false;
  }
  bool number_float(json::number_float_t, const json::string_t&) override { return true; }
  bool string(json::string_t&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    if (keys_.size() >= kMaxDepth) return false;
    keys_.emplace_back();
    return true;
  }
  bool key(json::string_t& key) override {
    if (!keys_.back().insert(key).second && !duplicate_) duplicate_ = key;
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override {
    elements_ = 0;
    return ++arrays_ <= 1;  // no array of the format holds another
  }
  bool end_array() override {
    --arrays_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception& error) override {
    // The parser quotes what it read last, which may be long.
    error_ = concat("not valid JSON at byte ", position, ": ", std::string(error.what()).substr(0, kMaxQuoted));
    return false;
  }

  const std::optional<std::string>& duplicate() const { return duplicate_; }
  const std::string& error() const { return error_; }

 private:
  /// A header nests three deep; more is an attack on the stack.
  static constexpr size_t kMaxDepth = 8;
  /// LibTorch's tensors have at most 64 dimensions; without a limit a hostile header would take many times its size.
  static constexpr size_t kMaxElements = 64;
  static constexpr size_t kMaxQuoted = 300;
  std::vector<std::set<std::string>> keys_;
  size_t arrays_ = 0;
  size_t elements_ = 0;
  std::optional<std::string> duplicate_;
  std::string error_ = "nested too deeply";
};

class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> bytes, uint64_t file_size, const std::string& where)
      : bytes_(bytes), file_size_(file_size), where_(where) {}

  SafetensorsHeader read() {
    const json parsed = parse(header_text());
    for (const auto& [name, value] : parsed.items()) {
      if (name == "__metadata__") {
        read_metadata(value);
      } else {
        read_entry(name, value);
      }
    }
    check_tiling();
    return std::move(header_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw Corruption(concat(where_, ": ", args...));
  }

  std::string header_text() {
    if (file_size_ < kLengthBytes || bytes_.size() < kLengthBytes) fail("a safetensors file has at least 8 bytes, this one ", file_size_);
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), kLengthBytes);
    if (length > kMaxHeaderBytes) fail("the header's length is ", length, " bytes, over the limit of ", kMaxHeaderBytes, "; not a safetensors file?");
    if (length > file_size_ - kLengthBytes || length > bytes_.size() - kLengthBytes) {
      fail("the header's length is ", length, " bytes, more than the file of ", file_size_, " bytes holds; is it truncated?");
    }
    header_.data_offset = kLengthBytes + length;
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes, length);
    if (text.empty() || text.front() != '{') fail("the header does not start with '{'");
    // The JSON parser takes a NUL for the end of the text: whatever follows would pass unseen.
    if (const size_t nul = text.find('\0'); nul != std::string::npos) fail("the header holds a NUL at byte ", nul);
    return text;
  }

  json parse(const std::string& text) const {
    DuplicateKeys check;
    if (!json::sax_parse(text, &check)) fail("the header is ", check.error());
    if (check.duplicate()) fail("'", *check.duplicate(), "' stands twice in the header");
    return json::parse(text);
  }

  void read_metadata(const json& value) {
    if (!value.is_object()) fail("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("__metadata__.", key, " is ", text.dump(), "; only strings are allowed");
      header_.metadata[key] = text.get<std::string>();
    }
  }

  const json& field(const std::string& name, const json& value, const char* key) const {
    if (!value.is_object() || !value.contains(key)) fail("tensor '", name, "' has no ", key);
    return value[key];
  }

  static bool is_count(const json& value) { return value.is_number_unsigned(); }

  void read_entry(const std::string& name, const json& value) {
    SafetensorsEntry entry;
    entry.name = name;
    const json &dtype = field(name, value, "dtype"), &shape = field(name, value, "shape"), &offsets = field(name, value, "data_offsets");
    if (value.size() != 3) fail("tensor '", name, "' has fields besides dtype, shape and data_offsets");
    if (!dtype.is_string() || !bits_of(dtype.get<std::string>())) fail("tensor '", name, "' has the unknown dtype ", dtype.dump());
    entry.dtype = dtype.get<std::string>();
    if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), is_count)) fail("tensor '", name, "' has the shape ", shape.dump());
    if (!offsets.is_array() || offsets.size() != 2 || !std::all_of(offsets.begin(), offsets.end(), is_count)) {
      fail("tensor '", name, "' has the data_offsets ", offsets.dump(), "; expected [begin, end]");
    }
    uint64_t bits = *bits_of(entry.dtype);
    for (const json& extent : shape) {
      const auto size = extent.get<uint64_t>();
      if (size > INT64_MAX || __builtin_mul_overflow(bits, size, &bits)) fail("tensor '", name, "' has a shape too large: ", shape.dump());
      entry.shape.push_back(static_cast<int64_t>(size));
    }
    entry.begin = offsets[0].get<uint64_t>();
    entry.end = offsets[1].get<uint64_t>();
    if (bits % 8 != 0) fail("tensor '", name, "' does not fill whole bytes");
    if (entry.end < entry.begin || entry.end - entry.begin != bits / 8) {
      fail("tensor '", name, "' ", entry.dtype, " ", shape.dump(), " needs ", bits / 8, " bytes, its data_offsets are ", offsets.dump());
    }
    header_.entries.push_back(std::move(entry));
  }

  void check_tiling() {
    std::sort(header_.entries.begin(), header_.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t end = 0;
    for (const SafetensorsEntry& entry : header_.entries) {
      if (entry.begin < end) fail("tensor '", entry.name, "' overlaps the one before it (begins at ", entry.begin, ", not ", end, ")");
      if (entry.begin > end) fail("there is a hole of ", entry.begin - end, " bytes before tensor '", entry.name, "'");
      end = entry.end;
    }
    const uint64_t available = file_size_ - header_.data_offset;
    if (end > available) fail("the tensors need ", end, " bytes and the file holds ", available, "; is it truncated?");
    if (end < available) fail("there are ", available - end, " bytes behind the last tensor");
  }

  std::span<const std::byte> bytes_;
  uint64_t file_size_;
  const std::string& where_;
  SafetensorsHeader header_;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, uint64_t file_size, const std::string& where) {
  return HeaderReader(bytes, file_size, where).read();
}

}  // namespace moe
