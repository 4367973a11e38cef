#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace moe::chat {

/// One form for Jinja sources that mean the same: white space outside literals, `-` and `+` marks, comments, the kind
/// of quotes, x['name'] or x.name, and text written as {{ 'a' + b }}, {{ 'a' }}{{ b }} or a{{ b }} make no difference.
/// Nothing is evaluated, so equal forms render equally, while different ones may, too. Read as transformers does
/// (trim_blocks and lstrip_blocks on). Nothing for a text that is not Jinja, or uses what no chat template of ours does
/// (dictionary literals, raw blocks).
std::optional<std::string> canonical_jinja(std::string_view source);

}  // namespace moe::chat
