#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moe::chat {

/// A word, number, operator or string of a Jinja expression; of a string, the characters that it means.
struct JinjaToken {
  enum class Kind { kWord, kOperator, kString };
  Kind kind = Kind::kWord;
  std::string text;
};

/// Text to print as it stands, an expression to print, or a statement.
struct JinjaItem {
  enum class Kind { kText, kExpression, kStatement };
  Kind kind = Kind::kText;
  std::string text;                ///< of kText
  std::vector<JinjaToken> tokens;  ///< of the others
};

/// Cuts a Jinja source into its items, white space handled as with trim_blocks and lstrip_blocks; comments are left
/// out. Nothing if it is not Jinja or has braces within an expression.
std::optional<std::vector<JinjaItem>> scan_jinja(std::string_view source);

}  // namespace moe::chat
