#pragma once

#include <filesystem>
#include <string>

#include "moe/v1/job.pb.h"

/// Which stock formats hold what each method makes: literals, for the test of the table and for transformers' verdict
/// on every pair.
namespace moe::testing {

inline constexpr char kNoFormat[] = "", kSoftmaxFormats[] = "mixtral granitemoeshared qwen2_moe",
                      kSigmoidFormats[] = "glm4_moe solar_open", kSharedFormats[] = "granitemoeshared qwen2_moe",
                      kAnyRouter[] = "mixtral granitemoeshared qwen2_moe glm4_moe solar_open";

/// Of a LLaMA, two experts chosen where there are several.
struct MethodRow {
  const char* method;
  int experts;  ///< of 4 parts, or models; of 3 the fourth is shared, 1 is the only part
  const char* renormalised;
  const char* sigmoids;  ///< with sigmoid scores, renormalised or as they are
  const char* ones;      ///< with weights of 1
};

inline constexpr MethodRow kMethodRows[] = {
    {"independent_random", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"independent_clustering", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"sequential", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"independent_gradient", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"sharing_inner", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"sharing_inter", 3, kSharedFormats, kSigmoidFormats, "granitemoeshared"},
    {"importance", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"residual", 3, kSharedFormats, kSigmoidFormats, "granitemoeshared"},
    {"coactivation", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"upcycle", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"merge", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"weave", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"weave", 3, kSharedFormats, kSigmoidFormats, "granitemoeshared"},
    {"analytic", 4, kSoftmaxFormats, kSigmoidFormats, "granitemoeshared"},
    {"analytic", 3, kSharedFormats, kSigmoidFormats, "granitemoeshared"},
    // One narrower expert is no mixture.
    {"pruned_random", 1, kNoFormat, kNoFormat, kNoFormat},
    {"pruned_gradient", 1, kNoFormat, kNoFormat, kNoFormat},
};

/// The conversion of a row, of an FFN of four parts of `width`, on the text.
v1::ConvertSpec spec_of(const MethodRow& row, int width, const std::filesystem::path& text);

/// Other scores and weights for a converted model: they stand in config.json alone.
void set_router(const std::filesystem::path& model, const std::string& score, const std::string& topk_norm);

}  // namespace moe::testing
