#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `sharing_inter`: the neurons that most groups of text have among their best are the shared part; of the others each
/// expert has the most important to its text (they overlap), or all are given away (greedy_assignment).
/// Source   LLaMA-MoE (arXiv:2406.16554), Sharing-Inter. Groups are as many as routed and shared experts, of which the
///          first ones alone are asked, as the published code does, unless `count_all`.
ConversionMethod sharing_inter();

}  // namespace moe
