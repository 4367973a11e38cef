#include "convert/method_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "convert/conversion_methods.h"
#include "convert/router_init.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::vector<MethodOption>& known_options() {
  static const std::vector<MethodOption> options{
      {.name = "rate", .help = "share of neurons drawn anew", .fallback = "0.5", .published = "0.25"},
      {.name = "groups", .help = "shards", .fallback = "2", .least = 1, .most = 64, .is_whole = true},
      {.name = "variant", .help = "what a copy is", .fallback = "copy", .choices = {"copy", "noise", "drop"}}};
  return options;
}

v1::ConvertSpec spec_with(const std::string& name, const std::string& value) {
  v1::ConvertSpec spec;
  spec.mutable_ffn()->set_method("upcycle");
  (*spec.mutable_ffn()->mutable_options())[name] = value;
  return spec;
}

std::string error_of(const std::string& name, const std::string& value) {
  return testing::message_of([&] { MethodOptions(known_options(), spec_with(name, value)); });
}

TEST(MethodOptionsTest, FillsDefaultsAndReadsWhatIsGiven) {
  const MethodOptions filled(known_options(), v1::ConvertSpec());
  EXPECT_EQ(filled.number("rate"), 0.5);
  EXPECT_EQ(filled.whole("groups"), 2);
  EXPECT_EQ(filled.choice("variant"), "copy");

  const MethodOptions given(known_options(), spec_with("rate", "1e-2"));
  EXPECT_EQ(given.number("rate"), 0.01);
  EXPECT_EQ(given.values().at("rate"), "1e-2");
}

TEST(MethodOptionsTest, PublishedPresetTakesThePapersChoiceUnlessOneIsGiven) {
  v1::ConvertSpec spec;
  spec.set_preset("published");
  EXPECT_EQ(MethodOptions(known_options(), spec).number("rate"), 0.25);
  EXPECT_EQ(MethodOptions(known_options(), spec).whole("groups"), 2);
  spec = spec_with("rate", "0.75");
  spec.set_preset("published");
  EXPECT_EQ(MethodOptions(known_options(), spec).number("rate"), 0.75);
}

TEST(MethodOptionsTest, RefusesWhatIsNotTheMethods) {
  EXPECT_THAT(error_of("rat", "1"), AllOf(HasSubstr("ffn.options.rat (1)"), HasSubstr("method upcycle"),
                                          HasSubstr("it has: rate, groups, variant")));
  EXPECT_THAT(error_of("variant", "clone"), AllOf(HasSubstr("'clone'"), HasSubstr("use copy, noise or drop")));
  for (const char* value : {"1.5", "-0.1", "nan", "inf", "", " 1", "1x", "half"})
    EXPECT_THAT(error_of("rate", value), HasSubstr("use 0 .. 1")) << value;
  for (const char* value : {"0", "65", "1.5"})
    EXPECT_THAT(error_of("groups", value), HasSubstr("use a whole number 1 .. 64")) << value;
}

/// What `moe-worker methods` lists can be used.
TEST(MethodOptionsTest, DefaultsOfEveryMethodAreAllowed) {
  for (const std::string& name : conversion_methods().names()) {
    const ConversionMethod& method = conversion_methods().at(name);
    for (const MethodOption& option : method.options) {
      v1::ConvertSpec spec = spec_with(option.name, option.fallback);
      EXPECT_NO_THROW(MethodOptions(method.options, spec)) << name << "." << option.name;
      EXPECT_FALSE(option.help.empty()) << name << "." << option.name;
      if (option.published.empty()) continue;
      spec = spec_with(option.name, option.published);
      EXPECT_NO_THROW(MethodOptions(method.options, spec)) << name << "." << option.name;
    }
  }
}

/// The papers' and their code's choices where ours are others; docs/methods.md says why.
TEST(MethodOptionsTest, WhatThePapersChose) {
  std::map<std::string, std::string> chosen;
  const auto add = [&](const std::string& of, const std::vector<MethodOption>& options) {
    for (const MethodOption& option : options) {
      if (!option.published.empty()) chosen[of + "." + option.name] = option.published;
    }
  };
  for (const std::string& name : conversion_methods().names()) add(name, conversion_methods().at(name).options);
  for (const std::string& name : router_inits().names()) add(name, router_inits().at(name).options);
  EXPECT_EQ(chosen, (std::map<std::string, std::string>{{"independent_clustering.restarts", "10"},
                                                        {"independent_gradient.normalise", "none"},
                                                        {"sharing_inter.normalise", "none"},
                                                        {"importance.loss", "mean"},
                                                        {"residual.loss", "mean"},
                                                        {"upcycle.scaled", "weights"},
                                                        {"weave.shared", "adaptive"},
                                                        {"weave.rows", "plain"},
                                                        {"merge.attention", "mean"},
                                                        {"merge.router", "random"},
                                                        {"hidden_clustering.metric", "l2"},
                                                        {"hidden_clustering.jitter", "0.1"},
                                                        {"hidden_clustering.restarts", "16"},
                                                        {"distilled.epochs", "100"},
                                                        {"distilled.learning_rate", "0.1"},
                                                        {"distilled.batch_tokens", "1024"}}));
}

}  // namespace
}  // namespace moe
