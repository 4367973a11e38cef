#include <cmath>
#include <functional>

#include "bad_input/bad_files.h"
#include "testing/sentencepiece_writer.h"

namespace moe::testing {
namespace {

constexpr char kFile[] = "tokenizer.model";

SentencePieceModel good_model() {
  SentencePieceModel model;
  model.pieces = {
      {"<unk>", 0, PieceType::kUnknown, 0}, {"<s>", 0, PieceType::kControl, 0}, {"</s>", 0, PieceType::kControl, 0}};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    const std::string text = std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">";
    model.pieces.push_back({text, 0, PieceType::kByte, static_cast<uint8_t>(byte)});
  }
  for (const char* text : {"\xE2\x96\x81", "a", "b", "ab"}) {
    model.pieces.push_back({text, -static_cast<float>(model.pieces.size()), PieceType::kNormal, 0});
  }
  model.byte_fallback = true;
  model.remove_extra_whitespaces = false;
  return model;
}

BadFile changed(const std::string& name, const std::function<void(SentencePieceModel&)>& change,
                std::vector<std::string> says) {
  SentencePieceModel model = good_model();
  change(model);
  return {name, kFile, write_sentencepiece_model(model), std::move(says)};
}

}  // namespace

std::string good_tokenizer_model() {
  return write_sentencepiece_model(good_model());
}

std::string tokenizer_model_of_a_larger_model() {
  SentencePieceModel model = good_model();
  model.pieces.resize(model.pieces.size() - 4);
  for (int i = 0; i < 100; ++i) model.pieces.push_back({"unused" + std::to_string(i), 0, PieceType::kUnused, 0});
  for (const char* text : {"\xE2\x96\x81", "a", "b"}) model.pieces.push_back({text, -1, PieceType::kNormal, 0});
  return write_sentencepiece_model(model);
}

std::vector<BadFile> bad_tokenizer_models() {
  const std::string good = good_tokenizer_model(), trainer = wire_bytes(2, write_trainer(good_model()));
  std::string pieces;
  for (const Piece& piece : good_model().pieces) pieces += wire_bytes(1, write_piece(piece));
  const std::string normalizer = wire_bytes(3, write_normalizer(good_model()));
  const auto file = [](const std::string& name, const std::string& bytes, std::vector<std::string> says) {
    return BadFile{name, kFile, bytes, std::move(says)};
  };
  constexpr size_t kLast = 262, kFirstByte = 3;
  return {
      file("empty", "", {"holds no pieces"}),
      file("text", "this is a text file\n", {"not a SentencePiece model"}),
      file("json", R"({"version": "1.0"})", {"not a SentencePiece model"}),
      file("zeros", std::string(64, '\0'), {"holds no pieces"}),
      file("ones", std::string(64, '\xFF'), {"not a SentencePiece model", "longer than 64 bits"}),
      file("cut_in_a_piece", good.substr(0, 1000), {"not a SentencePiece model"}),
      file("cut_behind_the_pieces", pieces, {"no trainer_spec", "cut off"}),
      file("without_normalizer", pieces + trainer, {"no normalizer_spec", "cut off"}),
      file("without_pieces", trainer + normalizer, {"holds no pieces"}),
      file("piece_longer_than_the_file", good + "\x0A\xFF\xFF\xFF\xFF\x07",
           {"a field of 2147483647 bytes where 0 are left"}),
      file("length_of_64_bits", good + "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",
           {"a field of 18446744073709551615 bytes"}),
      file("number_without_end", good + "\x08\x80\x80", {"ends inside a number"}),
      file("group", good + "\x0B", {"wire type 3"}),
      file("unigram", good + wire_bytes(2, wire_varint(3, 1)), {"model_type 1 (unigram)", "only 2 (BPE)"}),
      file("word", good + wire_bytes(2, wire_varint(3, 3)), {"model_type 3 (word)"}),
      file("suffixes", good + wire_bytes(2, wire_varint(3, 2) + wire_varint(24, 1)), {"treat_whitespace_as_suffix"}),
      file("normalisation_table", pieces + trainer + wire_bytes(3, wire_bytes(1, "nmt_nfkc") + wire_bytes(2, "table")),
           {"'nmt_nfkc'", "precompiled_charsmap"}),
      file("denormalizer", good + wire_bytes(5, wire_bytes(2, "table")), {"denormalizer_spec"}),
      changed("spaces_not_escaped", [](SentencePieceModel& m) { m.escape_whitespaces = false; },
              {"escape_whitespaces false"}),
      changed("piece_twice", [](SentencePieceModel& m) { m.pieces.push_back(m.pieces[kLast]); }, {"'ab' stands twice"}),
      changed("piece_empty", [](SentencePieceModel& m) { m.pieces[kLast].text = ""; }, {"a piece is empty"}),
      changed("piece_not_utf8", [](SentencePieceModel& m) { m.pieces[kLast].text = "a\xFF"; }, {"not UTF-8"}),
      changed("piece_surrogate", [](SentencePieceModel& m) { m.pieces[kLast].text = "\xED\xA0\x80"; }, {"not UTF-8"}),
      changed("score_nan", [](SentencePieceModel& m) { m.pieces[kLast].score = std::nanf(""); },
              {"'ab' has the score nan"}),
      changed("score_infinite", [](SentencePieceModel& m) { m.pieces[kLast].score = -INFINITY; },
              {"'ab' has the score -inf"}),
      changed("type_unknown", [](SentencePieceModel& m) { m.pieces[kLast].type = static_cast<PieceType>(9); },
              {"unknown type 9"}),
      changed("type_zero", [](SentencePieceModel& m) { m.pieces[kLast].type = static_cast<PieceType>(0); },
              {"unknown type 0"}),
      changed("byte_missing", [](SentencePieceModel& m) { m.pieces.erase(m.pieces.begin() + kFirstByte); },
              {"byte_fallback", "there are 255"}),
      changed("byte_of_three_digits", [](SentencePieceModel& m) { m.pieces[kFirstByte].text = "<0x000>"; },
              {"'<0x000>'"}),
      changed("byte_lower_case", [](SentencePieceModel& m) { m.pieces[kFirstByte].text = "<0xaa>"; }, {"'<0xaa>'"}),
      changed("bytes_without_fallback", [](SentencePieceModel& m) { m.byte_fallback = false; },
              {"'<0x00>'", "byte_fallback is off"}),
      changed("unk_is_a_letter", [](SentencePieceModel& m) { m.unk_id = kLast; },
              {"unk_id 262 is not the unknown piece"}),
      changed("unk_negative", [](SentencePieceModel& m) { m.unk_id = -1; }, {"unk_id -1"}),
      changed("unk_outside", [](SentencePieceModel& m) { m.unk_id = 1'000'000; }, {"unk_id 1000000"}),
      changed("eos_outside", [](SentencePieceModel& m) { m.eos_id = 263; },
              {"special id 263 is outside the 263 pieces"}),
      changed("bos_negative", [](SentencePieceModel& m) { m.bos_id = -5; }, {"special id -5"}),
  };
}

}  // namespace moe::testing
