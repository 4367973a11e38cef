#include <functional>

#include "bad_input/bad_files.h"
#include "common/file_io.h"

namespace moe::testing {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kFirst[] = "model-00001-of-00002.safetensors", kSecond[] = "model-00002-of-00002.safetensors";

}  // namespace

std::vector<BadFile> bad_indexes(const fs::path& good) {
  const std::string text = read_file(good / kIndex);
  std::vector<BadFile> files = broken_json(kIndex, text, Json::kOfPython);
  const auto changed = [&](const std::string& name, const std::function<void(json&)>& change,
                           std::vector<std::string> says) {
    json index = json::parse(text);
    change(index);
    files.push_back({name, kIndex, index.dump(1), std::move(says)});
  };
  const std::string head = "lm_head.weight";
  changed("no_weight_map", [](json& index) { index.erase("weight_map"); }, {"`weight_map`"});
  changed("weight_map_null", [](json& index) { index["weight_map"] = nullptr; }, {"`weight_map`"});
  changed("weight_map_list", [](json& index) { index["weight_map"] = json::array({"x"}); }, {"`weight_map`"});
  changed("weight_map_empty", [](json& index) { index["weight_map"] = json::object(); }, {"`weight_map`"});
  changed("file_number", [&](json& index) { index["weight_map"][head] = 3; }, {head, "3"});
  changed("file_null", [&](json& index) { index["weight_map"][head] = nullptr; }, {head, "null"});
  changed("file_empty", [&](json& index) { index["weight_map"][head] = ""; }, {"''", "not a plain file name"});
  changed("file_dot", [&](json& index) { index["weight_map"][head] = "."; }, {"'.'", "not a plain file name"});
  changed("file_dots", [&](json& index) { index["weight_map"][head] = ".."; }, {"'..'", "not a plain file name"});
  changed("file_above", [&](json& index) { index["weight_map"][head] = "../secret"; },
          {"'../secret'", "not a plain file name"});
  changed("file_absolute", [&](json& index) { index["weight_map"][head] = "/etc/passwd"; },
          {"'/etc/passwd'", "not a plain file name"});
  changed("file_below", [&](json& index) { index["weight_map"][head] = std::string("sub/") + kFirst; },
          {"not a plain file name"});
  changed("file_missing", [&](json& index) { index["weight_map"][head] = "model-00009-of-00009.safetensors"; },
          {"model-00009-of-00009.safetensors", "not in the folder"});
  changed("file_of_another_kind", [&](json& index) { index["weight_map"][head] = "pytorch_model.bin"; },
          {"pytorch_model.bin", "not in the folder"});
  changed("name_missing", [&](json& index) { index["weight_map"].erase(head); },
          {"missing: " + head, "does not name it"});
  std::string twice = text;
  twice.insert(twice.find('{', twice.find("weight_map")) + 1, "\"" + head + "\": \"" + kFirst + "\",");
  files.push_back({"name_twice", kIndex, twice, {head, "stands twice"}});
  // A shard that is wrong is named itself.
  const std::string shard = read_file(good / kFirst);
  std::string whole = read_file(good.parent_path() / "single/model.safetensors");
  whole.back() ^= 1;  // of a tensor that the second shard has, too
  files.push_back({"shard_truncated", kFirst, shard.substr(0, shard.size() - 1), {"truncated"}});
  files.push_back({"shard_empty", kSecond, "", {"at least 8 bytes"}});
  files.push_back({"tensor_in_two_shards",
                   kFirst,
                   whole,
                   {"unexpected: ", std::string(" of ") + kSecond + " (it differs from that of " + kFirst + ")"}});
  return files;
}

}  // namespace moe::testing
