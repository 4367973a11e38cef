// The YAML of README.md and docs/, and the files of configs/, by the checks that `moe-worker run` begins with: an
// example that a reader copies is one that runs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/spec.h"
#include "testing/paths.h"
#include "worker/known_names.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

struct Example {
  std::string where;  ///< "docs/routing.md:10"
  std::string text;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::vector<fs::path> files_of(const fs::path& folder, const std::string& extension) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == extension) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// Fenced blocks of YAML, without the blanks by which a list indents them.
std::vector<Example> examples_of(const fs::path& file) {
  std::vector<Example> examples;
  std::optional<Example> open;
  size_t indent = 0;
  const std::vector<std::string> lines = lines_of(read_file(file));
  for (size_t i = 0; i < lines.size(); ++i) {
    const size_t fence = lines[i].find("```");
    const bool is_fence = fence != std::string::npos && fence == lines[i].find_first_not_of(' ');
    if (open && is_fence) {
      examples.push_back(*std::move(open));
      open.reset();
    } else if (open) {
      open->text += lines[i].substr(std::min(indent, lines[i].size())) + "\n";
    } else if (is_fence && lines[i].substr(fence) == "```yaml") {
      open = Example{concat(file.filename().string(), ":", i + 1), ""};
      indent = fence;
    }
  }
  EXPECT_FALSE(open) << file << " ends within a block";
  return examples;
}

std::string indented(const std::string& text, const std::string& by) {
  std::string result;
  for (const std::string& line : lines_of(text)) result += by + line + "\n";
  return result;
}

/// Stages that make the models which a fragment reads and does not make.
std::string stages_before(const std::string& fragment) {
  const std::regex reference(R"(([a-z0-9-]+)\.model)"), name(R"(name: *([a-z0-9-]+))");
  std::set<std::string> names, known;
  for (std::sregex_iterator at(fragment.begin(), fragment.end(), name), end; at != end; ++at) known.insert((*at)[1]);
  for (std::sregex_iterator at(fragment.begin(), fragment.end(), reference), end; at != end; ++at)
    names.insert((*at)[1]);
  std::string stages;
  for (const std::string& missing : names) {
    if (known.contains(missing)) continue;
    stages += "  - {name: " + missing +
              ", convert: {input: dense, ffn: {method: independent_random, experts: 4, top_k: 2}, router: {init: "
              "kaiming}, scale: {mode: k}}}\n";
  }
  return stages;
}

/// A whole file stays as it is. Stages, a list of them or the work of one, become a pipeline; a part of a conversion,
/// which is shown without its input, becomes a whole one.
std::string pipeline_of(const std::string& example) {
  if (example.rfind("apiVersion:", 0) == 0) return example;
  std::string stages = example;
  const std::string list = "stages:\n";
  if (stages.rfind(list, 0) == 0) {
    stages = stages.substr(list.size());
  } else if (stages.find_first_not_of(' ') != stages.find("- ")) {
    if (stages.rfind("convert:\n", 0) == 0 && stages.find("input:") == std::string::npos)
      stages +=
          "  input: dense\n  ffn: {method: independent_random, experts: 4, top_k: 2}\n"
          "  calibration: {data: [{path: text.jsonl}]}\n";
    stages = "  - name: example\n" + indented(stages, "    ");
  }
  return "apiVersion: moe/v1\nkind: Pipeline\nname: example\ninputs: {dense: {path: models/dense}}\nstages:\n" +
         stages_before(stages) + stages;
}

std::string problems_of(const std::string& text, const std::string& file) {
  const KnownNames names = known_names();
  return to_text(load_pipeline(text, file, {}, names).problems);
}

TEST(DocumentExamplesTest, EveryBlockOfYamlInTheDocumentsIsValid) {
  const fs::path root = testing::source_dir();
  std::vector<fs::path> files = files_of(root / "docs", ".md");
  files.push_back(root / "README.md");
  size_t checked = 0, fences = 0;
  for (const fs::path& file : files) {
    for (const std::string& line : lines_of(read_file(file))) fences += line.find("```yaml") != std::string::npos;
    for (const Example& example : examples_of(file)) {
      const std::string text = pipeline_of(example.text);
      EXPECT_EQ(problems_of(text, example.where), "") << example.where << ", checked as\n" << text;
      ++checked;
    }
  }
  EXPECT_EQ(checked, fences) << "a block was not found";
  EXPECT_GE(checked, 18U);
  std::cout << checked << " blocks of YAML in " << files.size() << " documents\n";
}

TEST(DocumentExamplesTest, EveryConfigurationIsValid) {
  const std::vector<fs::path> files = files_of(fs::path(testing::source_dir()) / "configs", ".yaml");
  for (const fs::path& file : files) EXPECT_EQ(problems_of(read_file(file), file.filename()), "");
  EXPECT_GE(files.size(), 10U);
  std::cout << files.size() << " configurations\n";
}

// What is wrong in any form of an example is found.
TEST(DocumentExamplesTest, AWrongExampleIsFound) {
  using ::testing::HasSubstr;
  const auto problems = [](const std::string& example) { return problems_of(pipeline_of(example), "a.md"); };
  EXPECT_EQ(problems("convert:\n  router: {gate: mlp}\n"), "");
  EXPECT_THAT(problems("convert:\n  router: {gat: mlp}\n"), HasSubstr("unknown key (gat)"));
  EXPECT_THAT(problems("train: {input: convert.model, steps: 0, data: [{path: a.jsonl}]}\n"), HasSubstr("train.steps"));
  EXPECT_THAT(problems("  - name: x\n    export: {input: stage2.model, format: mixtrall}\n"), HasSubstr("mixtrall"));
  EXPECT_THAT(problems("stages:\n  - {name: x, convert: {input: dense, ffn: {method: wave, experts: 4, top_k: 2}}}\n"),
              HasSubstr("(wave); did you mean 'weave'?"));
  EXPECT_THAT(problems("apiVersion: moe/v1\nkind: Job\nname: x\n"), HasSubstr("a.md"));
}

}  // namespace
}  // namespace moe
