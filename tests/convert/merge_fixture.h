#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "testing/tiny_model.h"

namespace moe::testing {

/// A letter is a token: a is 0, z is 25.
inline void write_letters(const std::filesystem::path& model) {
  nlohmann::json vocab;
  for (int letter = 0; letter < 26; ++letter) vocab[std::string(1, static_cast<char>('a' + letter))] = letter;
  const nlohmann::json tokenizer = {
      {"added_tokens", nlohmann::json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  write_file_atomically(model / "tokenizer.json", tokenizer.dump());
}

/// Three dense models of one shape, "dense", maths and code, the first of which reads letters.
class MergeTest : public ConversionTest {
 protected:
  MergeTest() {
    write_dense_model(maths(), tiny_config(), 21);
    write_dense_model(code(), tiny_config(), 22);
    write_letters(dense());
  }
  std::filesystem::path maths() const { return folder_ / "maths"; }
  std::filesystem::path code() const { return folder_ / "code"; }

  /// Of the input and these, with random routers.
  static v1::ConvertSpec merge_spec(const std::vector<std::filesystem::path>& others, int top_k) {
    v1::ConvertSpec spec = convert_spec("merge", static_cast<int>(others.size()) + 1, top_k);
    for (const std::filesystem::path& other : others) spec.mutable_ffn()->add_others(other);
    set_option(spec, "router", "random");
    spec.mutable_router()->set_topk_norm("renorm");
    spec.mutable_scale()->set_mode("fixed");
    spec.mutable_scale()->set_value(1);
    return spec;
  }
  /// Three experts: one for "abc" and "de" but not "x", one for "fghij", one for "kk" and "l".
  static void add_prompts(v1::ConvertSpec& spec, const std::string& router) {
    set_option(spec, "router", router);
    v1::ExpertPrompts* prompts = spec.mutable_ffn()->add_prompts();
    prompts->add_positive("abc");
    prompts->add_positive("de");
    prompts->add_negative("x");
    spec.mutable_ffn()->add_prompts()->add_positive("fghij");
    prompts = spec.mutable_ffn()->add_prompts();
    prompts->add_positive("kk");
    prompts->add_positive("l");
  }

  using ConversionTest::refusal;
  /// The message when one field of a good request is changed.
  std::string refusal(const std::function<void(v1::ConvertSpec&)>& spoil) {
    v1::ConvertSpec spec = merge_spec({maths(), code()}, 2);
    spoil(spec);
    return refusal(spec);
  }
};

}  // namespace moe::testing
