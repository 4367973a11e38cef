#pragma once

#include "moe/v1/job.pb.h"

namespace moe {

/// Fills in what a conversion of feed-forward layers leaves out of options, router and scale: by preset "ours", or as
/// the method's paper and its published code have it. `ffn`: with its sizes.
void fill_ffn_options(v1::FfnExpertsSpec& ffn, bool is_published);
void fill_ffn_router(v1::RouterSpec& router, const v1::FfnExpertsSpec& ffn, bool is_published);
void fill_ffn_scale(v1::ScaleSpec& scale, const v1::FfnExpertsSpec& ffn, bool is_published);

/// The same of attention's experts.
void fill_attention_router(v1::RouterSpec& router, int top_k, bool is_published);
void fill_attention_scale(v1::ScaleSpec& scale, bool is_published);

}  // namespace moe
