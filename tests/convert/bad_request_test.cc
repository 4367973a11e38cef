// Conversions that are refused or fail: what the message says, that all ranks say it, and that nothing is left behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <functional>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/attention_fixture.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "convert/request_check.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using testing::ConversionTest;
using testing::convert;
using testing::convert_spec;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class BadRequestTest : public ConversionTest {
 protected:
  using ConversionTest::refusal;
  /// The message when one field of a good request is changed.
  std::string refusal(const std::function<void(v1::ConvertSpec&)>& spoil) {
    v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
    spoil(spec);
    return refusal(spec);
  }
};

// A method that looks at gates, on a family without them.
TEST(ApplicableTest, AMethodRefusesAModelWithItsReason) {
  const ConversionMethod gate_reader{.summary = "a test's", .plan = {}, .refusal = needs_gated_ffn};
  EXPECT_NO_THROW(check_applies("gate_reader", gate_reader, testing::tiny_config("llama"), "dir"));
  EXPECT_NO_THROW(check_applies("gate_reader", gate_reader, testing::tiny_config("qwen2"), "dir"));
  EXPECT_THAT([&] { check_applies("gate_reader", gate_reader, testing::tiny_config("phi"), "dir"); },
              ThrowsMessage<InvalidArgument>(AllOf(HasSubstr("gate_reader does not apply to dir"),
                                                   HasSubstr("phi has no gate"), HasSubstr("independent_random"))));
  const ConversionMethod any{.summary = "a test's", .plan = {}};
  EXPECT_NO_THROW(check_applies("any", any, testing::tiny_config("phi"), "dir"));
}

TEST_F(BadRequestTest, NamesFieldValueAndWhatWouldDo) {
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->set_experts(5); }),
              AllOf(HasSubstr("ffn.experts 5"), HasSubstr("width 48"), HasSubstr("1, 2, 3, 4, 6, 8")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->set_experts(0); }), HasSubstr("ffn.experts is 0"));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->set_top_k(5); }),
              AllOf(HasSubstr("ffn.top_k is 5"), HasSubstr("use 1 to 4")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->set_top_k(0); }), HasSubstr("ffn.top_k is 0"));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_ffn()->set_method("magic"); }),
              AllOf(HasSubstr("magic"), HasSubstr("independent_random, independent_clustering, sequential")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_router()->set_init("magic"); }),
              AllOf(HasSubstr("magic"), HasSubstr("random_selection, kaiming, normal, zero")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_router()->set_scaling("magic"); }),
              AllOf(HasSubstr("router.scaling is 'magic'"), HasSubstr("calibrated, raw")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_scale()->set_mode("magic"); }),
              AllOf(HasSubstr("scale.mode 'magic'"), HasSubstr("least_squares")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_router()->set_topk_norm("magic"); }),
              AllOf(HasSubstr("topk_norm 'magic'"), HasSubstr("renorm")));
  EXPECT_THAT(refusal([](auto& s) { s.set_dtype("int4"); }),
              AllOf(HasSubstr("dtype is 'int4'"), HasSubstr("source, float32, bfloat16")));
  EXPECT_THAT(refusal([](auto& s) {
                s.mutable_scale()->set_mode("fixed");
                s.mutable_scale()->set_value(-1);
              }),
              AllOf(HasSubstr("scale.value is -1"), HasSubstr("positive")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_calibration()->set_tokens(0); }), HasSubstr("calibration.tokens is 0"));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_calibration()->clear_data(); }),
              AllOf(HasSubstr("calibration.data is empty"), HasSubstr("random_selection")));
  EXPECT_THAT(refusal([](auto& s) {
                s.mutable_calibration()->clear_data();
                s.mutable_router()->set_init("zero");
              }),
              AllOf(HasSubstr("calibration.data is empty"), HasSubstr("least_squares")));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_calibration()->mutable_data(0)->set_path("/no/such/file.jsonl"); }),
              HasSubstr("/no/such/file.jsonl"));
}

/// llama-moe-v1 T1: a width that the number of experts does not divide, of every method that cuts it.
TEST_F(BadRequestTest, AWidthThatTheExpertsDoNotDivide) {
  int refused = 0;
  for (const std::string& method : conversion_methods().names()) {
    v1::ConvertSpec spec = testing::method_spec(method, 4, 2, ids());
    if (spec.ffn().experts() == 1 || conversion_methods().at(method).has_others || method == "upcycle") continue;
    SCOPED_TRACE(method);
    spec.mutable_ffn()->set_experts(spec.ffn().shared_experts() > 0 ? 6 : 7);  // 7 parts of 48 neurons
    EXPECT_THAT(refusal(spec), AllOf(HasSubstr(": ffn.experts "), HasSubstr("divide the FFN width 48"),
                                     HasSubstr("one of 1, 2, 3, 4, 6, 8, 12, 16, 24, 48")));
    ++refused;
  }
  EXPECT_GE(refused, 10);
}

TEST_F(BadRequestTest, AProductRouterOfAnFfnWithBiases) {
  testing::write_dense_model(folder_ / "biased", testing::tiny_config("llama_biases"), 1);
  v1::ConvertSpec spec = testing::method_spec("analytic", 4, 2, ids());
  spec.mutable_router()->set_gate("product");
  EXPECT_THAT(refusal(spec, folder_ / "biased"),
              AllOf(HasSubstr("router.gate is 'product'"), HasSubstr("has biases"), HasSubstr("use linear")));
}

TEST_F(BadRequestTest, AFileWithoutText) {
  for (const char* content : {"", "\n\n"}) {
    write_file_atomically(folder_ / "empty.jsonl", content);
    const std::string message =
        refusal([&](auto& s) { s.mutable_calibration()->mutable_data(0)->set_path(folder_ / "empty.jsonl"); });
    EXPECT_THAT(message, HasSubstr("empty.jsonl"));
    EXPECT_THAT(message, HasSubstr("expected one JSON object a line"));
  }
}

TEST_F(BadRequestTest, AllProblemsAreToldAtOnce) {
  const std::string message = refusal([](auto& s) {
    s.mutable_ffn()->set_experts(5);
    s.mutable_ffn()->set_expert_width(3);
    s.mutable_ffn()->add_layers("9");
    s.set_dtype("int4");
  });
  EXPECT_THAT(message, AllOf(HasSubstr("ffn.experts 5"), HasSubstr("\nconvert: ffn.expert_width is 3"),
                             HasSubstr("\nconvert: ffn.layers: '9' names layer 9")));
  EXPECT_THAT(message, ::testing::StartsWith("convert: dtype is 'int4'"));
  // A method that there is not is in the way of all of its checks, and one problem.
  const std::string unknown = refusal([](auto& s) { s.mutable_ffn()->set_method("magic"); });
  EXPECT_EQ(unknown.find("magic"), unknown.rfind("magic")) << unknown;
}

TEST_F(BadRequestTest, AnOptionOfTheFitOfARouterThatIsNotFitted) {
  v1::ConvertSpec spec = convert_spec("analytic", 4, 2, ids());
  spec.mutable_router()->set_gate("product");
  testing::set_option(spec, "ridge", "0.5");
  EXPECT_THAT(refusal(spec), HasSubstr("convert: ffn.options.ridge has no effect (0.5) with router.gate product"));
}

TEST_F(BadRequestTest, AttentionExpertsThatCannotBe) {
  const auto refuse = [this](const std::function<void(v1::AttentionExpertsSpec&)>& spoil) {
    v1::ConvertSpec spec = testing::attention_spec(4, 2);
    spoil(*spec.mutable_attention());
    return refusal(spec);
  };
  EXPECT_THAT(refuse([](auto& a) { a.set_experts(0); }),
              AllOf(HasSubstr("attention.experts is 0"), HasSubstr("1, 2, 4")));
  EXPECT_THAT(refuse([](auto& a) { a.set_experts(8); }),
              AllOf(HasSubstr("attention.experts 8 does not divide the 4 query heads"), HasSubstr("1, 2, 4")));
  EXPECT_THAT(refuse([](auto& a) { a.set_top_k(5); }), AllOf(HasSubstr("attention.top_k is 5"), HasSubstr("1 to 4")));
  EXPECT_THAT(refuse([](auto& a) { a.set_top_k(0); }), HasSubstr("attention.top_k is 0"));
  EXPECT_THAT(refuse([](auto& a) { a.set_always_on(3); }),
              AllOf(HasSubstr("attention.top_k is 2 with 1 experts to choose from"), HasSubstr("1 to 1")));
  EXPECT_THAT(refuse([](auto& a) { a.set_always_on(4); }),
              AllOf(HasSubstr("attention.always_on is 4"), HasSubstr("use 0 to 3")));
  EXPECT_THAT(refuse([](auto& a) { a.set_grouping("magic"); }),
              AllOf(HasSubstr("magic"), HasSubstr("contiguous, random, clustered")));
  EXPECT_THAT(refuse([](auto& a) { a.set_kv_mode("magic"); }),
              AllOf(HasSubstr("attention.kv_mode is 'magic'"), HasSubstr("routed, dense")));
  EXPECT_THAT(refuse([](auto& a) { a.mutable_router()->set_init("magic"); }), HasSubstr("random_selection"));
  EXPECT_THAT(refuse([](auto& a) { a.mutable_scale()->set_mode("magic"); }), HasSubstr("least_squares"));
  EXPECT_THAT(refuse([](auto& a) { testing::set_fixed_scale(*a.mutable_scale(), -1); }),
              HasSubstr("attention.scale.value is -1"));
  EXPECT_THAT(refuse([](auto& a) { a.add_layers("2"); }), HasSubstr("convert: attention.layers: '2' names layer 2"));
  for (const char* reader : {"grouping", "router", "scale"}) {
    const std::string name = reader;
    EXPECT_THAT(refuse([&](auto& a) {
                  if (name == "grouping") a.set_grouping("clustered");
                  if (name == "router") a.mutable_router()->set_init("hidden_clustering");
                  if (name == "scale") a.mutable_scale()->set_mode("least_squares");
                }),
                AllOf(HasSubstr("calibration.data is empty"), HasSubstr("attention." + name)));
  }
  v1::ConvertSpec nothing = testing::attention_spec(4, 2);
  nothing.clear_attention();
  EXPECT_THAT(refusal(nothing), HasSubstr("neither ffn nor attention"));
}

/// Six query heads on two key-value heads: three experts are no groups and no slices of them.
TEST_F(BadRequestTest, AttentionExpertsAcrossKeyValueHeads) {
  nlohmann::json config = testing::tiny_json();
  config.update({{"num_attention_heads", 6}, {"head_dim", 8}});
  testing::write_dense_model(folder_ / "six", parse_model_config(config.dump(), "six heads"), 1);
  EXPECT_THAT(
      refusal(testing::attention_spec(3, 2, "contiguous"), folder_ / "six"),
      AllOf(HasSubstr("attention.experts 3 neither divides the 2 key-value heads"), HasSubstr("use one of 1, 2, 6")));
  EXPECT_NO_THROW(convert(testing::attention_spec(3, 2, "random"), 1, folder_ / "six", out()))
      << "each head brings its own";
}

TEST_F(BadRequestTest, AttentionWithAWindowHasNoExperts) {
  nlohmann::json config = testing::tiny_json("qwen2");
  config.update({{"use_sliding_window", true}, {"sliding_window", 16}, {"max_window_layers", 0}});
  testing::write_dense_model(folder_ / "window", parse_model_config(config.dump(), "window"), 1);
  EXPECT_THAT(refusal(testing::attention_spec(2, 1), folder_ / "window"),
              AllOf(HasSubstr("window"), HasSubstr("last 16 tokens")));
}

TEST_F(BadRequestTest, TooFewTokensForTheRouterOfAttention) {
  write_file_atomically(folder_ / "short.jsonl", "{\"ids\": [1, 2, 3]}\n");
  v1::ConvertSpec spec = testing::attention_spec(4, 2);
  testing::add_text(spec, folder_ / "short.jsonl");
  spec.mutable_calibration()->set_tokens(1);
  spec.mutable_attention()->mutable_router()->set_init("random_selection");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("attention.router.init random_selection"), HasSubstr("experts 4")));
}

TEST_F(BadRequestTest, LayersThatTheModelHasNotOrThatAreNone) {
  const auto with = [this](const std::vector<std::string>& items) {
    return refusal([&](auto& s) { s.mutable_ffn()->mutable_layers()->Add(items.begin(), items.end()); });
  };
  EXPECT_THAT(with({"0", "1-2"}),
              HasSubstr("convert: ffn.layers: '1-2' names layer 2, and the model has layers 0 to 1"));
  EXPECT_THAT(with({"last"}), HasSubstr("convert: ffn.layers: 'last' is no layer"));
  EXPECT_THAT(with({"0-1", "1"}), HasSubstr("'1' names layer 1, which '0-1' has already"));
}

TEST_F(BadRequestTest, TooFewTokensForTheExperts) {
  write_file_atomically(folder_ / "short.jsonl", "{\"ids\": [1, 2, 3]}\n");
  v1::ConvertSpec spec = convert_spec("sequential", 48, 2, folder_ / "short.jsonl");
  spec.mutable_calibration()->set_tokens(1);
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("experts 48"), HasSubstr("calibration.tokens")));
}

/// Of one token said again and again the layers see the same: no two experts could begin with it.
TEST_F(BadRequestTest, TokensThatAreAlikeAreOneForTheRouter) {
  std::string lines;
  for (int document = 0; document < 6; ++document) lines += "{\"ids\": [5, 5, 5]}\n";
  write_file_atomically(folder_ / "alike.jsonl", lines);
  v1::ConvertSpec spec = convert_spec("sequential", 4, 2, folder_ / "alike.jsonl");
  spec.mutable_calibration()->set_tokens(12);  // two of the documents are kept aside for the receipt
  EXPECT_THAT(refusal(spec),
              AllOf(HasSubstr("convert: router.init random_selection takes one calibration token per expert, no two "
                              "alike, and the 12 calibration tokens hold 1 for experts 4"),
                    HasSubstr("give more text")));
}

TEST_F(BadRequestTest, ABadLineOfCalibrationIsNamed) {
  write_file_atomically(folder_ / "bad.jsonl", "{\"ids\": [1, 2]}\n{\"ids\": [1, 61]}\n");
  EXPECT_THAT(refusal(convert_spec("sequential", 4, 2, folder_ / "bad.jsonl")),
              AllOf(HasSubstr("bad.jsonl:2"), HasSubstr("61")));
}

TEST_F(BadRequestTest, AMixtureIsNotConvertedAgain) {
  convert(convert_spec("sequential", 4, 2), 1, dense(), folder_ / "moe");
  EXPECT_THAT(refusal(convert_spec("sequential", 4, 2), folder_ / "moe"),
              AllOf(HasSubstr("mixture of experts already"), HasSubstr("4 experts")));
}

TEST_F(BadRequestTest, NothingIsOverwritten) {
  std::filesystem::create_directory(out());
  write_file_atomically(out() / "precious", "text");
  EXPECT_THROW(convert(convert_spec("sequential", 4, 2), 1, dense(), out()), InvalidArgument);
  EXPECT_EQ(read_file(out() / "precious"), "text");
  EXPECT_FALSE(std::filesystem::exists(out().string() + ".partial"));
}

TEST_F(BadRequestTest, EveryRankThrowsTheSame) {
  std::atomic<int> agreed = 0;
  testing::run_ranks(3, [&](Communicator& world) {
    for (const int experts : {5, 48}) {
      v1::ConvertSpec spec = convert_spec("sequential", experts, 2, ids());
      spec.mutable_calibration()->set_tokens(1);
      if (experts == 48) spec.mutable_calibration()->mutable_data(0)->set_path(folder_ / "short.jsonl");
      if (experts == 48 && world.rank() == 0) write_file_atomically(folder_ / "short.jsonl", "{\"ids\": [1, 2, 3]}\n");
      world.barrier("file written");
      try {
        convert(spec, 1, dense(), out(), world);
      } catch (const AgreedError&) {
        ++agreed;
      }
    }
  });
  EXPECT_EQ(agreed, 6) << "two errors on three ranks";
}

/// Limits the size of files, as a full disk does in the middle of a file, for one scope.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(BadRequestTest, AFailedWriteLeavesNothingOnAnyRank) {
  std::atomic<int> failures = 0;
  // Room for the first layer, not for the second.
  const FileSizeLimit limit(40'000);
  testing::run_ranks(2, [&](Communicator& world) {
    try {
      convert(convert_spec("sequential", 4, 2, ids()), 1, dense(), out(), world);
    } catch (const StorageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("model.safetensors"));
      ++failures;
    }
  });
  EXPECT_EQ(failures, 2);
  EXPECT_FALSE(std::filesystem::exists(out()));
  EXPECT_FALSE(std::filesystem::exists(out().string() + ".partial"));
}

}  // namespace
}  // namespace moe
