#pragma once

#include <filesystem>
#include <string>

#include "moe/v1/job.pb.h"

/// Which stock formats hold what each method makes: literals, for the test of the table and for transformers' verdict
/// on every pair.
namespace moe::testing {

inline constexpr char kNoFormat[] = "", kSoftmaxFormats[] = "mixtral granitemoeshared qwen2_moe",
                      kRawFormats[] = "qwen2_moe", kSigmoidFormats[] = "glm4_moe solar_open",
                      kSharedFormats[] = "granitemoeshared qwen2_moe", kOnesFormats[] = "granitemoeshared",
                      kAnyRouter[] = "mixtral granitemoeshared qwen2_moe glm4_moe solar_open",
                      kDenseLayerFormats[] = "qwen2_moe", kFirstDenseFormats[] = "glm4_moe";

/// Of a LLaMA, two experts chosen where there are several.
struct MethodRow {
  const char* method;
  int experts;  ///< of 4 parts, or models; of 3 the fourth is shared, 1 is the only part
  const char* renormalised;
  const char* raw;       ///< with softmax scores as they are
  const char* sigmoids;  ///< with sigmoid scores, renormalised or as they are
  const char* ones;      ///< with weights of 1
  const char* option = nullptr;
  const char* value = nullptr;
  const char* layers = nullptr;  ///< of two those that become mixtures
};

inline constexpr MethodRow kMethodRows[] = {
    {"independent_random", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"independent_clustering", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"sequential", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"independent_gradient", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"sharing_inner", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"sharing_inter", 3, kSharedFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"sharing_inter", 3, kSharedFormats, kRawFormats, kSigmoidFormats, kOnesFormats, "routed", "disjoint"},
    {"importance", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"residual", 3, kSharedFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"coactivation", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"upcycle", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"upcycle", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats, "variant", "noise"},
    {"upcycle", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats, "variant", "drop"},
    {"upcycle", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats, "variant", "granular"},
    {"merge", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"weave", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"weave", 3, kSharedFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"weave", 4, kSharedFormats, kRawFormats, kSigmoidFormats, kOnesFormats, "shared", "adaptive"},
    {"analytic", 4, kSoftmaxFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"analytic", 3, kSharedFormats, kRawFormats, kSigmoidFormats, kOnesFormats},
    {"sequential", 4, kDenseLayerFormats, kRawFormats, kFirstDenseFormats, kNoFormat, nullptr, nullptr, "1"},
    {"residual", 3, kDenseLayerFormats, kRawFormats, kNoFormat, kNoFormat, nullptr, nullptr, "0"},
    // One narrower expert is no mixture.
    {"pruned_random", 1, kNoFormat, kNoFormat, kNoFormat, kNoFormat},
    {"pruned_gradient", 1, kNoFormat, kNoFormat, kNoFormat, kNoFormat},
};

/// "weave_4_adaptive", "sequential_4_layers_1"
std::string name_of(const MethodRow& row);

/// Of `formats` those that hold the same experts of a base of another family: a Mixtral has no biases of a Qwen2's
/// attention.
std::string formats_of_base(const std::string& family, const std::string& formats);

/// The conversion of a row, of an FFN of four parts of `width`, on the text.
v1::ConvertSpec spec_of(const MethodRow& row, int width, const std::filesystem::path& text);

/// Other scores and weights for a converted model: they stand in config.json alone.
void set_router(const std::filesystem::path& model, const std::string& score, const std::string& topk_norm);

}  // namespace moe::testing
