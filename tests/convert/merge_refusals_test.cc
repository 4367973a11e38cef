// Models that cannot be the experts of one, and counts and prompts that do not fit them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "convert/attention_fixture.h"
#include "convert/merge_fixture.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::convert;
using ::testing::HasSubstr;
using testing::MergeTest;
using testing::set_option;

TEST_F(MergeTest, RefusesModelsThatAreNotOfOneShape) {
  json narrow = testing::tiny_json();
  narrow["intermediate_size"] = 40;
  testing::write_dense_model(folder_ / "narrow", parse_model_config(narrow.dump(), "narrow"), 5);
  EXPECT_THAT(refusal(merge_spec({maths(), folder_ / "narrow"}, 2)),
              AllOf(HasSubstr("intermediate_size is 40 in " + (folder_ / "narrow").string()),
                    HasSubstr("and 48 in " + dense().string()), HasSubstr("give models of one shape")));
  json other_words = testing::tiny_json();
  other_words["vocab_size"] = 64;
  testing::write_dense_model(folder_ / "words", parse_model_config(other_words.dump(), "words"), 5);
  EXPECT_THAT(refusal(merge_spec({folder_ / "words"}, 1)),
              AllOf(HasSubstr("vocab_size is 64 in"), HasSubstr("and 61 in")));
  convert(testing::convert_spec("sequential", 4, 2), 1, dense(), folder_ / "mixture");
  EXPECT_THAT(refusal(merge_spec({folder_ / "mixture"}, 1)), HasSubstr("is a mixture of experts already (4 experts)"));
  json turned = testing::tiny_json();
  turned["rope_theta"] = 12345.0;
  testing::write_dense_model(folder_ / "turned", parse_model_config(turned.dump(), "turned"), 5);
  v1::ConvertSpec averaged = merge_spec({folder_ / "turned"}, 1);
  set_option(averaged, "attention", "mean");
  EXPECT_THAT(refusal(averaged), HasSubstr("rope_theta is 12345 in"));
  EXPECT_NO_THROW(convert(merge_spec({folder_ / "turned"}, 1), 1, dense(), folder_ / "base"));
  v1::ConvertSpec both = merge_spec({maths()}, 1);
  set_option(both, "attention", "mean");
  *both.mutable_attention() = testing::attention_spec(4, 2).attention();
  EXPECT_THAT(refusal(both),
              AllOf(HasSubstr("makes attention, norms and embedding anew"), HasSubstr("{attention: base}")));
}

TEST_F(MergeTest, RefusesCountsPromptsAndFamiliesThatCannotBe) {
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->set_experts(2); }),
              AllOf(HasSubstr("ffn.experts is 2"), HasSubstr("3 models"), HasSubstr("set 3 or leave it out")));
  EXPECT_THAT(refusal([](auto& s) {
                s.mutable_ffn()->clear_others();
                s.mutable_ffn()->set_experts(1);
                s.mutable_ffn()->set_top_k(1);
              }),
              HasSubstr("list the others as ffn.others"));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->mutable_options()->erase("router"); }),
              AllOf(HasSubstr("ffn.prompts has 0 entries for 3 experts"), HasSubstr("ffn.options.router: random")));
  EXPECT_THAT(refusal([](auto& s) {
                add_prompts(s, "hidden");
                s.mutable_ffn()->mutable_prompts()->RemoveLast();
              }),
              HasSubstr("ffn.prompts has 2 entries for 3 experts"));
  EXPECT_THAT(refusal([](auto& s) { add_prompts(s, "random"); }), HasSubstr("ffn.prompts has no effect"));
  EXPECT_THAT(refusal([](auto& s) {
                add_prompts(s, "hidden");
                s.mutable_ffn()->mutable_prompts(1)->clear_positive();
              }),
              HasSubstr("ffn.prompts.1.positive is empty"));
  EXPECT_THAT(refusal([](auto& s) {
                add_prompts(s, "hidden");
                s.mutable_ffn()->mutable_prompts(0)->set_negative(0, " \n");
              }),
              HasSubstr("ffn.prompts.0.negative.0 is empty"));
  EXPECT_THAT(refusal([](auto& s) {
                add_prompts(s, "hidden");
                s.mutable_ffn()->mutable_prompts(2)->set_positive(1, std::string(3000, 'a'));
              }),
              AllOf(HasSubstr("ffn.prompts.2.positive.1 has 3000 tokens"), HasSubstr("give a shorter text")));
  EXPECT_THAT(refusal([](auto& s) {
                add_prompts(s, "hidden");
                s.mutable_ffn()->mutable_prompts(1)->add_negative("fghij");
              }),
              HasSubstr("ffn.prompts.1 cancel out"));
  EXPECT_THAT(refusal([](auto& s) { set_option(s, "router", "magic"); }), HasSubstr("magic"));
  EXPECT_THAT(
      refusal([](auto& s) { s.mutable_scale()->set_alignment("variance"); }),
      HasSubstr("convert: scale.alignment variance scales every expert towards what the input's own FFNs give, and "
                "experts of ffn.method merge are FFNs of other models; remove it"));
  EXPECT_THAT(
      refusal([](auto& s) { s.mutable_reconstruction()->set_steps(5); }),
      HasSubstr("convert: reconstruction trains every expert to give what the input's own FFNs give, and experts of "
                "ffn.method merge are FFNs of other models; remove it"));
  v1::ConvertSpec other = testing::convert_spec("sequential", 4, 2);
  other.mutable_ffn()->add_others(maths());
  EXPECT_THAT(refusal(other), AllOf(HasSubstr("ffn.others names 1 models"), HasSubstr("ffn.method: merge")));

  v1::ConvertSpec with_prompts = merge_spec({maths(), code()}, 2);
  add_prompts(with_prompts, "hidden");
  fs::remove(dense() / "tokenizer.json");
  EXPECT_THAT(refusal(with_prompts), AllOf(HasSubstr("has no tokenizer"), HasSubstr(dense().string())));
  testing::write_dense_model(folder_ / "biased", testing::tiny_config("llama_biases"), 5);
  EXPECT_THAT(refusal(merge_spec({folder_ / "biased"}, 1), folder_ / "biased"),
              AllOf(HasSubstr("merge does not apply"), HasSubstr("have a bias")));
}

}  // namespace
}  // namespace moe
