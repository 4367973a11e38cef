// Chat templates against jinja2 and transformers: the text of 400 random conversations (in the full run 2,000) for
// every template, from its Jinja source; SmolLM2's own template through apply_chat_template; label masks on SmolLM2's
// tokenizer and on a SentencePiece one.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "data/chat/chat_encoding.h"
#include "data/chat/directory_template.h"
#include "data/documents.h"
#include "testing/full_run.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/read_documents.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kRoot = testing::source_dir();
const int kConversations = testing::sized(400, 2000);
constexpr int kSeed = 20261124;
const ChatTokens kTokens{"<s>", "</s>", true};

using testing::smollm2_model;

void run_oracle(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   {testing::peer_python().string(), (kRoot / "tests/peer/chat_oracle.py").string()});
  const testing::ProcessResult result = testing::run_process(arguments);
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
}

template <typename Visit>
int for_each_json_line(const fs::path& path, const Visit& visit) {
  std::ifstream file(path);
  std::string line;
  int count = 0;
  for (; std::getline(file, line); ++count) visit(json::parse(line));
  return count;
}

std::vector<ChatMessage> messages_of(const json& line, bool with_input) {
  std::vector<ChatMessage> chat;
  for (const json& message : line["messages"]) {
    chat.push_back({message["role"], message["content"], with_input ? message.value("input", "") : ""});
  }
  return chat;
}

bool has_late_system(const json& messages) {
  return std::any_of(messages.begin() + 1, messages.end(),
                     [](const json& message) { return message["role"] == "system"; });
}

/// What the Jinja source prints: with marks as ids, BOS and EOS stand in its text.
std::optional<std::string> our_text(const ChatTemplate& chat_template, const std::vector<ChatMessage>& chat,
                                    const ChatTokens& tokens, bool prompt) {
  RenderedChat ours;
  try {
    ours = chat_template.render(chat, tokens, {.add_generation_prompt = prompt});
  } catch (const InvalidArgument&) {
    return std::nullopt;
  }
  if (!chat_template.has_marks_as_ids) return ours.text;
  for (auto turn = ours.assistant_turns.rbegin(); turn != ours.assistant_turns.rend(); ++turn)
    ours.text.insert(turn->end, tokens.eos);
  return tokens.bos + ours.text;
}

class ChatPeerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(testing::peer_python())) {
      GTEST_SKIP() << "no " << testing::peer_python() << "; run: bash deploy/install_deps.sh --peers";
    }
  }
  testing::TempDir folder_;
};

TEST_F(ChatPeerTest, EveryTemplatePrintsWhatItsJinjaSourcePrints) {
  json templates = json::object();
  for (const std::string& name : chat_templates().names()) {
    templates[name] = {{"jinja", chat_templates().at(name).jinja}, {"bos", kTokens.bos}, {"eos", kTokens.eos}};
  }
  write_file_atomically(folder_ / "templates.json", templates.dump());
  std::vector<std::string> command{"render", folder_ / "templates.json", folder_ / "texts.jsonl",
                                   std::to_string(kConversations), std::to_string(kSeed)};
  const bool has_smollm2 = fs::exists(smollm2_model() / "tokenizer_config.json");
  if (has_smollm2) command.push_back(smollm2_model().string());
  run_oracle(command);
  if (HasFatalFailure()) return;

  std::map<std::string, int> differences, refused;
  int own = 0;
  const int lines = for_each_json_line(folder_ / "texts.jsonl", [&](const json& line) {
    for (const std::string& name : chat_templates().names()) {
      const ChatTemplate& chat_template = chat_templates().at(name);
      const auto ours =
          our_text(chat_template, messages_of(line, chat_template.has_place_for_input), kTokens, line["prompt"]);
      const json& theirs = line["texts"][name];
      refused[name] += ours ? 0 : 1;
      // LLaMA-2's published text leaves a system message in an assistant's place out without a word; we refuse it.
      if (!ours && name == "llama2" && has_late_system(line["messages"])) continue;
      if (ours.has_value() == theirs.is_null() || (ours && *ours != theirs.get<std::string>())) {
        if (++differences[name] <= 2)
          ADD_FAILURE() << name << "\nours:   " << json(ours.value_or("refused")) << "\ntheirs: " << theirs
                        << "\nchat: " << line["messages"];
      }
    }
    if (line.contains("smollm2_directory")) {
      own += our_text(chat_templates().at("smollm2"), messages_of(line, false), {"<|im_start|>", "<|im_end|>", false},
                      line["prompt"]) != line["smollm2_directory"].get<std::string>()
                 ? 1
                 : 0;
    }
  });
  EXPECT_EQ(lines, kConversations);
  EXPECT_EQ(own, 0);
  for (const std::string& name : chat_templates().names()) {
    std::cout << name << ": " << lines << " conversations (seed " << kSeed << "), " << refused[name] << " refused, "
              << differences[name] << " differences\n";
    EXPECT_EQ(differences[name], 0) << name;
    EXPECT_LT(refused[name], lines / 4) << name;
  }
  std::cout << (has_smollm2 ? concat("SmolLM2's apply_chat_template: ", own, " differences\n") : "no SmolLM2 here\n");
}

TEST_F(ChatPeerTest, Smollm2DirectoryIsRecognised) {
  if (!fs::exists(smollm2_model() / "tokenizer_config.json"))
    GTEST_SKIP() << smollm2_model() << " is missing; run: bash deploy/install_deps.sh --peers";
  EXPECT_EQ(choose_chat_template(smollm2_model()).name, "smollm2");
}

/// Ids and labels of real chats; returns their number and that of learned tokens.
void compare_masks(const fs::path& model, const std::string& name, const fs::path& chats, const fs::path& expected) {
  const auto tokenizer = Tokenizer::from_directory(model);
  const std::vector<Document> ours =
      testing::read_documents(chats, tokenizer.get(), {.chat_template = {name}, .max_documents = 300});
  size_t i = 0, tokens = 0, learned = 0, differences = 0;
  for_each_json_line(expected, [&](const json& line) {
    ASSERT_LT(i, ours.size());
    const Document& document = ours[i++];
    tokens += document.ids.size();
    for (const uint8_t is_learned : document.supervised) learned += is_learned;
    const bool same = document.ids == line["ids"].get<std::vector<int32_t>>() &&
                      document.supervised == line["supervised"].get<std::vector<uint8_t>>();
    if (!same && ++differences <= 2) {
      ADD_FAILURE() << name << ", chat " << i << "\nours:   " << json(document.ids) << "\n"
                    << json(document.supervised) << "\ntheirs: " << line;
    }
  });
  std::cout << model.filename().string() << ", " << name << ": " << i << " chats, " << tokens << " tokens, " << learned
            << " learned, " << differences << " differences\n";
  EXPECT_EQ(i, ours.size());
  EXPECT_GT(learned, tokens / 20);
  EXPECT_EQ(differences, 0U);
}

/// Two chats of the file after each other as one, the answers of every other one context only: "weight" 0 and 1 in
/// turn.
void write_weighted_chats(const fs::path& chats, const fs::path& weighted) {
  std::string text;
  json before;
  int answers = 0;
  for_each_json_line(chats, [&](const json& line) {
    json messages = json::array();
    for (json message : line["messages"]) {
      if (message["role"] == "assistant") message["weight"] = answers++ % 2;
      if (message["role"] != "system" || before.is_null()) messages.push_back(std::move(message));
    }
    if (before.is_null()) {
      before = std::move(messages);
      return;
    }
    before.insert(before.end(), messages.begin(), messages.end());
    text += json{{"messages", std::move(before)}}.dump() + "\n";
    before = nullptr;
  });
  write_file_atomically(weighted, text);
}

struct MaskCase {
  const char* model;  ///< "smollm2", or a folder of the project
  const char* name;
  const char* bos;
  const char* eos;
  const char* before;  ///< generated before the content
  const char* marker;
  bool trims = false;
};

class ChatMaskPeerTest : public ::testing::TestWithParam<MaskCase> {};

TEST_P(ChatMaskPeerTest, SameIdsAndLabels) {
  const MaskCase& test = GetParam();
  if (!fs::exists(testing::peer_python()))
    GTEST_SKIP() << "no " << testing::peer_python() << "; run: bash deploy/install_deps.sh --peers";
  const fs::path model = std::string(test.model) == "smollm2" ? smollm2_model() : kRoot / test.model;
  if (!fs::exists(model)) GTEST_SKIP() << model << " is missing; run: bash deploy/install_deps.sh --peers";
  const fs::path shared = kRoot / "../shared/data/sft/chat.valid.jsonl";
  const testing::TempDir folder;
  const fs::path chats = folder / "chats.jsonl";
  write_weighted_chats(
      fs::exists(shared) && std::string(test.name) != "llama2" ? shared : kRoot / "examples/data/maths.valid.jsonl",
      chats);
  if (std::string(test.name) == "plain_markers") {
    run_oracle({"markers", model, chats, folder / "masks.jsonl", "300"});
  } else {
    const json entry = {{"jinja", chat_templates().at(test.name).jinja},
                        {"bos", test.bos},
                        {"eos", test.eos},
                        {"before", test.before},
                        {"marker", test.marker},
                        {"trims", test.trims}};
    write_file_atomically(folder / "templates.json", json{{test.name, entry}}.dump());
    run_oracle({"masks", model, folder / "templates.json", test.name, chats, folder / "masks.jsonl", "300"});
  }
  if (HasFatalFailure()) return;
  compare_masks(model, test.name, chats, folder / "masks.jsonl");
}

INSTANTIATE_TEST_SUITE_P(
    Cases, ChatMaskPeerTest,
    ::testing::Values(MaskCase{"smollm2", "smollm2", "<|im_start|>", "<|im_end|>", "", "<|im_end|>"},
                      MaskCase{"smollm2", "chatml", "<|im_start|>", "<|im_end|>", "", "<|im_end|>"},
                      MaskCase{"examples/base-7m", "plain_markers", "", "", "", ""},
                      MaskCase{"examples/base-7m", "vicuna", "<s>", "</s>", " ", "</s>"},
                      MaskCase{"examples/base-7m", "alpaca", "<s>", "</s>", "", "</s>"},
                      MaskCase{"examples/base-7m", "llama2", "<s>", "</s>", " ", "</s>", true}),
    [](const auto& test) {
      return std::string(test.param.model) == "smollm2" ? std::string("SmolLm2_") + test.param.name
                                                        : std::string("SentencePiece_") + test.param.name;
    });

}  // namespace
}  // namespace moe
