// Logits of examples/base-7m against a recording of transformers' (tests/testing/fixtures), for machines without it.
#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "testing/compare.h"
#include "testing/paths.h"

namespace moe {
namespace {

TEST(GoldenLogitsTest, Base7mEqualsTheRecording) {
  const SafetensorsFile golden(testing::source_dir() + "/tests/testing/fixtures/logits_base-7m.safetensors");
  const ModelDirectory directory(testing::source_dir() + "/examples/base-7m");
  const at::Tensor ids = golden.tensor("ids");
  const int64_t tokens = ids.size(0);
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const Decoder decoder = load_decoder(directory, dtype, {0, 0});
    const at::NoGradGuard no_grad;
    LocalDispatcher dispatcher;
    const at::Tensor logits = decoder.logits(decoder.forward({ids, {0, tokens}}, dispatcher).hidden_TD);
    EXPECT_TRUE(testing::near(logits.slice(1, 0, logits.size(1), 64), golden.tensor("columns"), 1e-5));
    EXPECT_TRUE(testing::near(at::logsumexp(logits, 1), golden.tensor("log_sum"), 1e-5));
    EXPECT_EQ(logits.argmax(1).ne(golden.tensor("argmax")).sum().item<int64_t>(), 0)
        << "of " << tokens << " best tokens";
  }
}

}  // namespace
}  // namespace moe
