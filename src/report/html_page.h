#pragma once

#include <string>
#include <string_view>
#include <vector>

/// Parts of a self-contained HTML page: styles inside, nothing fetched, light or dark as the reader's system says,
/// readable at 390 px. Everything given as text is escaped; `html` arguments are markup made here or by the SVG
/// drawings.
namespace moe {

struct HtmlPageOptions {
  /// The browser loads the page again after so many seconds; 0: never.
  int refresh_seconds = 0;
  /// Rules of this page alone, after the common ones.
  std::string_view style;
};

/// A whole document around the body.
std::string html_page(std::string_view title, std::string_view body_html, const HtmlPageOptions& options = {});

/// A table of text cells; wider than the screen, it scrolls by itself. The first cell of a row is its heading. A cell's
/// second line, after a
/// '\n', is shown small. With `numbers` all cells but the first stand at the right.
std::string html_table(std::string_view caption, const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows, bool numbers);

/// A drawing with its title above and, if not empty, a note below.
std::string html_figure(std::string_view title, std::string_view svg_html, std::string_view note);

/// A large value with its name.
std::string html_tile(std::string_view value, std::string_view name);

/// The style class of a state of a pipeline, stage, gate, job or gang: "good" (SUCCEEDED, PASSED, ...), "bad" (FAILED,
/// CANCELED, lost), "wait" (somebody must act or look: HELD, PAUSED, ...), "run" (RUNNING, ...), "idle" (its turn is
/// yet to come, and every unknown word).
std::string_view state_class(std::string_view state);

/// A state in its colour.
std::string html_badge(std::string_view state);

}  // namespace moe
