#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/converter.h"
#include "convert/importance.h"
#include "convert/token_groups.h"

namespace moe::testing {

using Neurons = std::set<int64_t>;

/// Conversions by methods that split by importance, and what they see of it.
class ImportanceMethodsTest : public ConversionTest {
 protected:
  v1::ConvertSpec request(const std::string& method, int experts, int shared, int width = 0) {
    v1::ConvertSpec spec = convert_spec(method, experts, 1, ids());
    if (shared > 0) spec.mutable_ffn()->set_shared_experts(shared);
    if (width > 0) spec.mutable_ffn()->set_expert_width(width);
    return spec;
  }

  /// The importance that a conversion of this spec sees, groups by text or router.
  std::vector<Importance> measured(const v1::ConvertSpec& spec, bool is_text, int64_t groups) {
    const ModelDirectory directory(dense());
    const auto world = make_self_communicator();
    const CalibrationText text = read_calibration_text(spec, kSeed, directory.config(), {}, *world);
    return measure_importance(
        DenseSource(directory), text,
        {.spec = spec,
         .seed = kSeed,
         .group_tokens =
             [&](const LayerInputs& inputs, const std::vector<at::Tensor>& hidden, Communicator& ranks) {
               return is_text ? group_by_text(inputs, hidden, groups, ranks) : group_by_router(inputs, groups, ranks);
             }},
        *world);
  }

  /// The neurons of each expert of a layer, and last the shared ones, after a conversion.
  std::vector<Neurons> parts(const v1::ConvertSpec& spec, int64_t layer) {
    const std::filesystem::path output = folder_ / concat("out", made_++);
    convert(spec, kSeed, dense(), output);
    const SafetensorsFile file(output / "conversion.safetensors");
    const at::Tensor experts = file.tensor(concat("model.layers.", layer, ".mlp.experts.neurons")).to(at::kLong);
    std::vector<Neurons> all;
    const auto add = [&](const at::Tensor& numbers) {
      const at::Tensor list = numbers.contiguous();
      all.emplace_back(list.const_data_ptr<int64_t>(), list.const_data_ptr<int64_t>() + list.numel());
    };
    for (int64_t e = 0; e < experts.size(0); ++e) add(experts[e]);
    if (spec.ffn().shared_experts() > 0)
      add(file.tensor(concat("model.layers.", layer, ".mlp.shared_expert.neurons")).to(at::kLong));
    return all;
  }

  static constexpr uint64_t kSeed = 5;
  int made_ = 0;
};

}  // namespace moe::testing
