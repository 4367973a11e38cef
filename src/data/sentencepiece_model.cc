#include "data/sentencepiece_model.h"

#include <cstring>
#include <functional>

#include "common/error.h"

namespace moe {
namespace {

/// Fields of one message of the Protobuf wire format.
class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {}

  struct Field {
    uint64_t number = 0;
    uint64_t value = 0;          ///< of a varint or fixed field
    std::string_view bytes;      ///< of a length-delimited field
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
  [[noreturn]] void fail(const std::string& what) const { throw Corruption(concat(where_, ": not a SentencePiece model: ", what)); }

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

void for_each_field(std::string_view bytes, const std::string& where, const std::function<void(const WireReader::Field&)>& visit) {
  WireReader reader(bytes, where);
  for (WireReader::Field field; reader.next(field);) visit(field);
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
      if (field.value < 1 || field.value > 6) throw Corruption(concat(where, ": piece '", piece.text, "' has the unknown type ", field.value));
      piece.type = static_cast<PieceType>(field.value);
    }
  });
  if (piece.text.empty()) throw Corruption(where + ": a piece is empty");
  return piece;
}

void read_trainer(std::string_view bytes, const std::string& where, SentencePieceModel& model) {
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    switch (field.number) {
      case 3:
        if (field.value != 2) throw InvalidArgument(concat(where, ": model_type ", field.value, " is not supported; only BPE (2) is"));
        break;
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
}

void read_normalizer(std::string_view bytes, const std::string& where, SentencePieceModel& model) {
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    switch (field.number) {
      case 2:
        if (!field.bytes.empty()) throw InvalidArgument(where + ": a normalisation table (precompiled_charsmap) is not supported; only `identity` is");
        break;
      case 3: model.add_dummy_prefix = field.value != 0; break;
      case 4: model.remove_extra_whitespaces = field.value != 0; break;
      case 5: model.escape_whitespaces = field.value != 0; break;
      default: break;
    }
  });
}

void check(const SentencePieceModel& model, const std::string& where) {
  const auto size = static_cast<int32_t>(model.pieces.size());
  if (size == 0) throw Corruption(where + ": it holds no pieces");
  if (model.unk_id < 0 || model.unk_id >= size || model.pieces[model.unk_id].type != PieceType::kUnknown) {
    throw Corruption(concat(where, ": unk_id ", model.unk_id, " is not the unknown piece"));
  }
  for (const int32_t id : {model.bos_id, model.eos_id}) {
    if (id < -1 || id >= size) throw Corruption(concat(where, ": special id ", id, " is outside the ", size, " pieces"));
  }
  int bytes = 0;
  for (const Piece& piece : model.pieces) {
    if (piece.type == PieceType::kUserDefined || piece.type == PieceType::kUnused) {
      throw InvalidArgument(concat(where, ": piece '", piece.text, "' is ", piece.type == PieceType::kUnused ? "unused" : "user-defined",
                                   "; such pieces are not supported"));
    }
    bytes += piece.type == PieceType::kByte ? 1 : 0;
  }
  if (model.byte_fallback && bytes != 256) throw Corruption(concat(where, ": byte_fallback needs 256 byte pieces, there are ", bytes));
  if (!model.escape_whitespaces) throw InvalidArgument(where + ": escape_whitespaces false is not supported");
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SentencePieceModel model;
  for_each_field(bytes, where, [&](const WireReader::Field& field) {
    if (!field.is_bytes) return;
    if (field.number == 1) model.pieces.push_back(read_piece(field.bytes, where));
    if (field.number == 2) read_trainer(field.bytes, where, model);
    if (field.number == 3) read_normalizer(field.bytes, where, model);
  });
  check(model, where);
  return model;
}

}  // namespace moe
