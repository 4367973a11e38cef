// Chats as a user meets them: a model trained in a template, its directory, and the answers of `generate --chat`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

const fs::path kRoot = testing::source_dir();
const fs::path kModel = kRoot / "examples/base-7m";

testing::ProcessResult worker(std::vector<std::string> arguments) {
  return testing::run_process(testing::worker_command(1, std::move(arguments)), {}, kRoot);
}

class ChatCommandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(model_);
    for (const auto& entry : fs::directory_iterator(kModel))
      fs::copy_file(entry.path(), model_ / entry.path().filename());
  }

  /// One training step on two chats.
  testing::ProcessResult train(const std::string& options, const fs::path& out) {
    write_file_atomically(
        folder_ / "chats.jsonl",
        R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, how are you today?"}]})"
        "\n"
        R"({"messages": [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Good bye, until tomorrow."}]})"
        "\n");
    write_file_atomically(folder_ / "job.yaml",
                          "apiVersion: moe/v1\nkind: Pipeline\nname: chat\ninputs: {dense: {path: " + model_.string() +
                              "}}\nstages:\n  - name: train\n    train: {input: dense, steps: 1, sequence_length: 128, "
                              "micro_batch_rows: 1, data: [{path: " +
                              (folder_ / "chats.jsonl").string() + "}]" + options + "}\n");
    return worker({"run", folder_ / "job.yaml", "--out", out});
  }

  testing::TempDir folder_;
  fs::path model_ = folder_ / "model";
};

TEST_F(ChatCommandsTest, ATrainedModelBringsItsTemplateAlong) {
  const testing::ProcessResult trained = train(", template: vicuna", folder_ / "first");
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const fs::path output = folder_ / "first/train/output-t0001";
  EXPECT_THAT(read_file(output / "chat_template.jinja"), AllOf(HasSubstr("{{ bos_token }}"), HasSubstr("'USER: '")));
  EXPECT_EQ(json::parse(read_file(output / "config.json"))["chat_template_name"], "vicuna");
  EXPECT_TRUE(json::parse(read_file(output / "MANIFEST.json"))["files"].contains("chat_template.jinja"));
  const auto answer = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments{"generate", output, "--chat", "--prompt", "Hi", "--max-tokens", "8"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const testing::ProcessResult result = worker(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  EXPECT_EQ(answer({}), answer({"--template", "vicuna"}));
  EXPECT_NE(answer({}), answer({"--template", "llama2"}));
  EXPECT_NE(answer({}), answer({"--system", "Say nothing but numbers."}));
  EXPECT_THAT(answer({}), ::testing::Not(HasSubstr("USER")));
}

TEST_F(ChatCommandsTest, AnUnknownTemplateStopsAtTheFirstChatAlone) {
  write_file_atomically(model_ / "tokenizer_config.json", R"({"chat_template": "{{ messages }} of another world"})");
  const testing::ProcessResult refused = train("", folder_ / "refused");
  EXPECT_EQ(refused.exit_code, 65);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("chats.jsonl has chats"), HasSubstr("tokenizer_config.json: chat_template"),
                                 HasSubstr("set `template:`"), HasSubstr("plain_markers, plain, llama2")));
  const testing::ProcessResult named = train(", template: plain_markers", folder_ / "named");
  EXPECT_EQ(named.exit_code, 0) << named.err;
  EXPECT_FALSE(fs::exists(folder_ / "named/train/output-t0001/chat_template.jinja")) << "the directory's own stays";
  const testing::ProcessResult generated = worker({"generate", model_, "--chat", "--prompt", "Hi"});
  EXPECT_EQ(generated.exit_code, 65);
  EXPECT_THAT(generated.err, HasSubstr("--template"));
  EXPECT_EQ(worker({"generate", model_, "--prompt", "Hi", "--max-tokens", "1"}).exit_code, 0) << "no chat, no question";
  EXPECT_EQ(worker({"generate", model_, "--prompt", "Hi", "--system", "x"}).exit_code, 64);
}

/// A conversion reads its calibration chats as the model does, not as plain markers; and `run` tells once what the plan
/// hardly means.
TEST_F(ChatCommandsTest, CalibrationChatsAreInTheModelsTemplate) {
  write_file_atomically(
      folder_ / "chats.jsonl",
      R"({"messages": [{"role": "user", "content": "Hi, who are you?"}, {"role": "assistant", "content": "The old man from the sea."}]})"
      "\n");
  const auto calibration = [&](const std::string& name, const std::string& options) {
    write_file_atomically(
        folder_ / "job.yaml",
        "apiVersion: moe/v1\nkind: Pipeline\nname: c\nstages:\n  - name: c\n    convert: {input: " + model_.string() +
            ", ffn: {method: sequential, experts: 4, top_k: 1}, router: {topk_norm: renorm, init: kaiming}, scale: "
            "{mode: "
            "k}, calibration: {tokens: 8, data: [{path: " +
            (folder_ / "chats.jsonl").string() + "}]" + options + "}}\n");
    const testing::ProcessResult result = worker({"run", folder_ / "job.yaml", "--out", folder_ / name});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const size_t told = result.err.find("topk_norm renorm with ffn.top_k 1");
    EXPECT_NE(told, std::string::npos) << result.err;
    EXPECT_EQ(told, result.err.rfind("topk_norm renorm with ffn.top_k 1")) << "once: " << result.err;
    return json::parse(read_file(folder_ / name / "c/output-t0001/conversion.json"))["calibration"];
  };
  const json plain = calibration("plain", ""), asked = calibration("asked", ", template: vicuna");
  json config = json::parse(read_file(model_ / "config.json"));
  config["chat_template_name"] = "vicuna";
  write_file_atomically(model_ / "config.json", config.dump());
  const json own = calibration("own", "");
  EXPECT_EQ(plain["chat_template"], "plain_markers");
  EXPECT_EQ(own["chat_template"], "vicuna");
  EXPECT_EQ(own, asked);
  EXPECT_NE(own["digest"], plain["digest"]);
  EXPECT_NE(own["tokens"], plain["tokens"]) << "the chat is one row of all its tokens";
}

TEST_F(ChatCommandsTest, EveryEndTokenOfBothConfigsEndsTheText) {
  const auto continuation = [&](const json& eos) {
    fs::remove(model_ / "generation_config.json");
    if (!eos.is_null()) write_file_atomically(model_ / "generation_config.json", json{{"eos_token_id", eos}}.dump());
    const testing::ProcessResult result = worker({"generate", model_, "--prompt", "The old man", "--max-tokens", "4"});
    return result.exit_code == 0 ? result.out.substr(std::string("The old man").size()) : result.err;
  };
  EXPECT_GT(continuation(nullptr).size(), 3U);
  EXPECT_EQ(continuation(2), continuation(nullptr));
  json all = json::array();
  for (int id = 0; id < 4096; ++id) all.push_back(id);
  EXPECT_EQ(continuation(all), "\n") << "whatever comes first ends it";
  EXPECT_THAT(
      continuation("two"),
      HasSubstr("generation_config.json: `eos_token_id` is \"two\"; expected an integer or a list of integers"));
}

}  // namespace
}  // namespace moe
