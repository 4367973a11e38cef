#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <ostream>
#include <string>

#include "model/decoder.h"
#include "testing/tiny_model.h"

namespace moe::testing {

/// A tiny model, dense or a mixture.
struct Kind {
  const char* name;
  const char* kind;
  bool is_moe;
  int64_t dense_layer = -1;  ///< of a mixture; -1: none
};
inline void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}

inline ModelConfig config_of(const Kind& kind) {
  if (!kind.is_moe) return tiny_config(kind.kind);
  const ModelConfig moe = tiny_moe_config(4, 2, 12, 8, kind.kind);
  return kind.dense_layer < 0 ? moe : with_dense_layer(moe, kind.dense_layer);
}

/// The weights under the names of their files.
inline std::map<std::string, at::Tensor> by_name(const Decoder& decoder) {
  std::map<std::string, at::Tensor> map;
  for (const Parameter& parameter : decoder.parameters()) {
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) map[logical.name] = logical.view;
  }
  return map;
}

inline at::Tensor logits_of(const Decoder& decoder, const TokenBatch& batch, KvCache* cache = nullptr) {
  const at::NoGradGuard no_grad;
  LocalDispatcher dispatcher;
  return decoder.logits(decoder.forward(batch, dispatcher, {.cache = cache}).hidden_TD);
}

/// Of each kind; decoder_test.cc lists them.
class DecoderTest : public ::testing::TestWithParam<Kind> {
 protected:
  Decoder decoder(at::ScalarType dtype) const {
    Decoder made(config_of(GetParam()), dtype, {0, 4});
    fill_random(made, 7);
    return made;
  }
};

}  // namespace moe::testing
