#include "testing/sentencepiece_writer.h"

#include <cstring>

namespace moe::testing {
namespace {

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(int field, int wire_type) {
  return varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type));
}

uint64_t signed_varint(int32_t value) {
  return static_cast<uint64_t>(static_cast<int64_t>(value));
}

}  // namespace

std::string wire_varint(int field, uint64_t value) {
  return key(field, 0) + varint(value);
}

std::string wire_bytes(int field, std::string_view bytes) {
  return key(field, 2) + varint(bytes.size()) + std::string(bytes);
}

std::string wire_float(int field, float value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return key(field, 5) + bytes;
}

std::string write_piece(const Piece& piece) {
  return wire_bytes(1, piece.text) + wire_float(2, piece.score) + wire_varint(3, static_cast<uint64_t>(piece.type));
}

std::string write_trainer(const SentencePieceModel& model) {
  return wire_varint(3, 2) + wire_varint(35, model.byte_fallback ? 1 : 0) +
         wire_varint(40, signed_varint(model.unk_id)) + wire_varint(41, signed_varint(model.bos_id)) +
         wire_varint(42, signed_varint(model.eos_id)) + wire_bytes(44, model.unk_surface);
}

std::string write_normalizer(const SentencePieceModel& model) {
  return wire_bytes(1, "identity") + wire_varint(3, model.add_dummy_prefix ? 1 : 0) +
         wire_varint(4, model.remove_extra_whitespaces ? 1 : 0) + wire_varint(5, model.escape_whitespaces ? 1 : 0);
}

std::string write_sentencepiece_model(const SentencePieceModel& model) {
  std::string bytes;
  for (const Piece& piece : model.pieces) bytes += wire_bytes(1, write_piece(piece));
  return bytes + wire_bytes(2, write_trainer(model)) + wire_bytes(3, write_normalizer(model));
}

}  // namespace moe::testing
