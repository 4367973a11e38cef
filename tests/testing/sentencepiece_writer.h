#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/tokenizer/sentencepiece_model.h"

/// Writes `tokenizer.model` files, so that tests reach every setting of the format, valid or not.
namespace moe::testing {

/// Fields of the Protobuf wire format.
std::string wire_varint(int field, uint64_t value);
std::string wire_bytes(int field, std::string_view bytes);
std::string wire_float(int field, float value);

std::string write_piece(const Piece& piece);
/// Messages trainer_spec (BPE) and normalizer_spec (identity) without their frame.
std::string write_trainer(const SentencePieceModel& model);
std::string write_normalizer(const SentencePieceModel& model);

/// The whole file.
std::string write_sentencepiece_model(const SentencePieceModel& model);

}  // namespace moe::testing
