#include "data/tokenizer/sentencepiece_model.h"

#include <bitset>
#include <cmath>
#include <cstring>
#include <functional>

#include "common/error.h"
#include "data/tokenizer/utf8.h"

namespace moe {
namespace {

/// Fields of one message of the Protobuf wire format.
class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {}

  struct Field {
    uint64_t number = 0;
    uint64_t value = 0;      ///< of a varint or fixed field
    std::string_view bytes;  ///< of a length-delimited field
    bool is_bytes = false;
  };

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    field = {.number = key >> 3, .value = 0, .bytes = {}, .is_bytes = false};
    switch (key & 7) {
      case 0: field.value = varint(); break;
      case 1: field.value = fixed(8); break;
      case 2:
        field.bytes = take(varint());
        field.is_bytes = true;
        break;
      case 5: field.value = fixed(4); break;
      default: fail(concat("wire type ", key & 7));
    }
    return true;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Corruption(concat(where_, ": not a SentencePiece model: ", what));
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) fail("it ends inside a number");
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    fail("a number is longer than 64 bits");
  }

  std::string_view take(uint64_t count) {
    if (count > rest_.size()) fail(concat("a field of ", count, " bytes where ", rest_.size(), " are left"));
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  uint64_t fixed(size_t count) {
    const std::string_view bytes = take(count);
    uint64_t value = 0;
    for (size_t i = 0; i < count; ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
    return value;
  }

  std::string_view rest_;
  const std::string& where_;
};

void for_each_field(std::string_view bytes, const std::string& where,
                    const std::function<void(const WireReader::Field&)>& visit) {
  WireReader reader(bytes, where);
  for (WireReader::Field field; reader.next(field);) visit(field);
}

/// "<0xAB>" -> 0xAB
uint8_t byte_of(const std::string& text, const std::string& where) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  const bool has_shape = text.size() == 6 && text.compare(0, 3, "<0x") == 0 && text[5] == '>';
  const size_t high = has_shape ? kDigits.find(text[3]) : std::string_view::npos;
  const size_t low = has_shape ? kDigits.find(text[4]) : std::string_view::npos;
  if (high == std::string_view::npos || low == std::string_view::npos) {
    throw Corruption(concat(where, ": byte piece '", text, "' is not one of <0x00> .. <0xFF>"));
  }
  return static_cast<uint8_t>(high << 4 | low);
}

Piece read_piece(std::string_view bytes, const std::string& where) {
  Piece piece;
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) {
      const auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&piece.score, &bits, sizeof bits);
    }
    if (field.number == 3) {
      if (field.value < 1 || field.value > 6)
        throw Corruption(concat(where, ": a piece has the unknown type ", field.value));
      piece.type = static_cast<PieceType>(field.value);
    }
  });
  if (piece.text.empty()) throw Corruption(where + ": a piece is empty");
  if (find_invalid_utf8(piece.text) != std::string_view::npos) throw Corruption(where + ": a piece is not UTF-8");
  if (!std::isfinite(piece.score))
    throw Corruption(concat(where, ": piece '", piece.text, "' has the score ", piece.score));
  if (piece.type == PieceType::kByte) piece.byte = byte_of(piece.text, where);
  return piece;
}

void read_trainer(std::string_view bytes, const std::string& where, SentencePieceModel& model) {
  uint64_t model_type = 1;  // the format's default: unigram
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    switch (field.number) {
      case 3: model_type = field.value; break;
      case 24:
        if (field.value != 0) throw InvalidArgument(where + ": treat_whitespace_as_suffix is not supported");
        break;
      case 35: model.byte_fallback = field.value != 0; break;
      case 40: model.unk_id = static_cast<int32_t>(field.value); break;
      case 41: model.bos_id = static_cast<int32_t>(field.value); break;
      case 42: model.eos_id = static_cast<int32_t>(field.value); break;
      case 44: model.unk_surface = field.bytes; break;
      default: break;
    }
  });
  if (model_type != 2) {
    const char* name = model_type == 1 ? " (unigram)" : model_type == 3 ? " (word)" : model_type == 4 ? " (char)" : "";
    throw InvalidArgument(concat(where, ": model_type ", model_type, name, " is not supported; only 2 (BPE) is"));
  }
}

void read_normalizer(std::string_view bytes, const std::string& where, SentencePieceModel& model) {
  std::string name;
  bool has_table = false;
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    switch (field.number) {
      case 1: name = field.bytes; break;
      case 2: has_table = !field.bytes.empty(); break;
      case 3: model.add_dummy_prefix = field.value != 0; break;
      case 4: model.remove_extra_whitespaces = field.value != 0; break;
      case 5: model.escape_whitespaces = field.value != 0; break;
      default: break;
    }
  });
  if (has_table) {
    throw InvalidArgument(concat(where, ": the normalisation table '", name,
                                 "' (precompiled_charsmap) is not supported; only `identity` is"));
  }
  if (!model.escape_whitespaces) throw InvalidArgument(where + ": escape_whitespaces false is not supported");
}

void refuse_denormalizer(std::string_view bytes, const std::string& where) {
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    if (field.number == 2 && !field.bytes.empty())
      throw InvalidArgument(where + ": a denormalisation table (denormalizer_spec) is not supported");
  });
}

void check(const SentencePieceModel& model, const std::string& where) {
  const auto size = static_cast<int32_t>(model.pieces.size());
  if (model.unk_id < 0 || model.unk_id >= size || model.pieces[model.unk_id].type != PieceType::kUnknown) {
    throw Corruption(concat(where, ": unk_id ", model.unk_id, " is not the unknown piece"));
  }
  for (const int32_t id : {model.bos_id, model.eos_id}) {
    if (id < -1 || id >= size)
      throw Corruption(concat(where, ": special id ", id, " is outside the ", size, " pieces"));
  }
  std::bitset<256> bytes;
  for (const Piece& piece : model.pieces) {
    if (piece.type != PieceType::kByte) continue;
    if (!model.byte_fallback)
      throw Corruption(concat(where, ": byte piece '", piece.text, "' although byte_fallback is off"));
    bytes.set(piece.byte);
  }
  if (model.byte_fallback && !bytes.all()) {
    throw Corruption(
        concat(where, ": byte_fallback needs the 256 byte pieces <0x00> .. <0xFF>, there are ", bytes.count()));
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SentencePieceModel model;
  bool has_trainer = false, has_normalizer = false;
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    if (!field.is_bytes) return;
    switch (field.number) {
      case 1: model.pieces.push_back(read_piece(field.bytes, where)); break;
      case 2:
        read_trainer(field.bytes, where, model);
        has_trainer = true;
        break;
      case 3:
        read_normalizer(field.bytes, where, model);
        has_normalizer = true;
        break;
      case 5: refuse_denormalizer(field.bytes, where); break;
      default: break;
    }
  });
  // Both have defaults in the format, but every writer stores them: without them the file is cut off between two
  // fields.
  if (model.pieces.empty()) throw Corruption(where + ": not a SentencePiece model: it holds no pieces");
  if (!has_trainer) throw Corruption(where + ": it has no trainer_spec; the file is cut off, copy it again");
  if (!has_normalizer) throw Corruption(where + ": it has no normalizer_spec; the file is cut off, copy it again");
  check(model, where);
  return model;
}

}  // namespace moe
