#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace moe {

/// Words in a row that two texts share by more than chance: what contamination checks of large models count (Brown et
/// al. 2020, arXiv:2005.14165, appendix C).
inline constexpr int kNgramWords = 13;

/// Calls `visit` with a hash of each kNgramWords consecutive words of a text, in order; none if it has fewer. Words are
/// runs of letters, digits, marks and underscores in lower case: neither punctuation nor spaces count. What is not
/// UTF-8 parts words.
void for_each_ngram(std::string_view text, const std::function<void(uint64_t hash)>& visit);

}  // namespace moe
