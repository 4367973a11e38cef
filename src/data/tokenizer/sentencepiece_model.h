#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

enum class PieceType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::kNormal;
  uint8_t byte = 0;  ///< of a byte piece: what "<0xAB>" stands for
};

/// What a `tokenizer.model` file says, as far as a BPE tokenizer needs it.
struct SentencePieceModel {
  std::vector<Piece> pieces;  ///< by id
  bool byte_fallback = false;
  int32_t unk_id = 0;
  int32_t bos_id = 1;  ///< -1: none
  int32_t eos_id = 2;  ///< -1: none
  std::string unk_surface = " \xE2\x81\x87 ";
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Reads the Protobuf wire format of a `tokenizer.model` (message ModelProto of SentencePiece) by hand: the library
/// that defines it cannot live in a process with ours. `where` starts each message. Throws Corruption for damaged
/// bytes, InvalidArgument for what is not supported (a unigram model, a normalisation table).
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where);

}  // namespace moe
