// What conversions leave to later ones: rows and importance, the same bytes taken as made, and nothing that is damaged.
#include "convert/calibration_store.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/safetensors.h"
#include "common/file_io.h"
#include "convert/calibration_text.h"
#include "convert/conversion_fixture.h"
#include "convert/converter.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder)] = read_file(entry.path());
  }
  return files;
}

/// Names without digests, as the store has them now: "rows.json".
std::vector<std::string> parts_in(const fs::path& folder) {
  std::vector<std::string> parts;
  for (const auto& [name, bytes] : files_in(folder)) parts.push_back(fs::path(name).filename().string().substr(0, 10));
  std::sort(parts.begin(), parts.end());
  return parts;
}

class CalibrationStoreTest : public testing::ConversionTest {
 protected:
  fs::path store() const { return folder_ / "calibrations"; }

  nlohmann::json convert(const v1::ConvertSpec& spec, const fs::path& output, Communicator& world, uint64_t seed = 3) {
    const OpenedModel opened = open_model(dense(), text_of_job(""));
    return convert_model({.spec = spec,
                          .seed = seed,
                          .source = opened.directory,
                          .text = opened.text,
                          .output = output,
                          .monitor = unwatched(),
                          .calibrations = store()},
                         world);
  }
  nlohmann::json convert(const v1::ConvertSpec& spec, const fs::path& output) {
    return convert(spec, output, *make_self_communicator());
  }

  v1::ConvertSpec spec(const std::string& method = "importance") const {
    return testing::method_spec(method, 4, 2, ids());
  }

  /// The time at which every file was written last.
  std::map<std::string, fs::file_time_type> times() const {
    std::map<std::string, fs::file_time_type> times;
    for (const auto& entry : fs::recursive_directory_iterator(store()))
      times[entry.path().string()] = fs::last_write_time(entry.path());
    return times;
  }
};

TEST_F(CalibrationStoreTest, ASecondConversionTakesWhatTheFirstKeptAndMakesTheSameBytes) {
  convert(spec(), folder_ / "first");
  EXPECT_THAT(parts_in(store()),
              ElementsAre("importance", "importance", "importance", "rows.json", "rows.lock", "rows.safet"));
  // Rows and sums: nothing as long as the text and as wide as the model.
  std::set<std::string> tensors;
  for (const auto& entry : fs::recursive_directory_iterator(store())) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const SafetensorsEntry& tensor : file.header().entries)
      tensors.insert(tensor.name.substr(tensor.name.rfind('.') + 1));
  }
  EXPECT_EQ(tensors,
            (std::set<std::string>{"tokens", "labels", "document_begin", "row_begin", "scores", "group_rows"}));
  const auto before = files_in(store());
  convert(spec(), folder_ / "second");
  EXPECT_EQ(files_in(folder_ / "first"), files_in(folder_ / "second"));
  EXPECT_EQ(files_in(store()), before);

  const OpenedModel opened = open_model(dense(), text_of_job(""));
  convert_model({.spec = spec(),
                 .seed = 3,
                 .source = opened.directory,
                 .text = opened.text,
                 .output = folder_ / "without-a-store",
                 .monitor = unwatched()},
                *make_self_communicator());
  EXPECT_EQ(files_in(folder_ / "without-a-store"), files_in(folder_ / "second"));
}

TEST_F(CalibrationStoreTest, WhatIsKeptIsWhatIsUsed) {
  convert(spec(), folder_ / "first");
  // Sums of another text under the right checksum: the experts follow them.
  std::string part;
  for (const auto& entry : fs::recursive_directory_iterator(store())) {
    if (const std::string name = entry.path().filename(); name.starts_with("importance") && name.ends_with(".json"))
      part = entry.path().stem();
  }
  const std::string digest =
      nlohmann::json::parse(read_file(folder_ / "first/conversion.json"))["calibration"]["digest"];
  const CalibrationStore kept(store());
  CalibrationStore::Entry entry = kept.read(digest, part).value();
  for (auto& [name, tensor] : entry.tensors) {
    if (name.ends_with(".scores")) tensor = tensor.flip({1}).contiguous();
  }
  kept.write(digest, part, entry);
  convert(spec(), folder_ / "second");
  EXPECT_NE(files_in(folder_ / "first").at("conversion.safetensors"),
            files_in(folder_ / "second").at("conversion.safetensors"));
}

TEST_F(CalibrationStoreTest, MethodsThatNeedTheSameSumsShareThem) {
  v1::ConvertSpec gradient = spec("independent_gradient"), inner = spec("sharing_inner");
  convert(gradient, folder_ / "gradient");
  const auto before = times();
  convert(inner, folder_ / "inner");  // four clusters of text as well
  EXPECT_EQ(times(), before);
  convert(spec("importance"), folder_ / "importance");  // four clusters of a router
  EXPECT_EQ(times().size(), before.size() + 3);
}

TEST_F(CalibrationStoreTest, AnotherTextHasAnotherDigestAndAnotherPlaceHasNot) {
  const auto world = make_self_communicator();
  const ModelConfig config = testing::tiny_config("llama");
  const auto digest = [&](const v1::ConvertSpec& of, uint64_t seed = 3) {
    return read_calibration_text(of, seed, config, {}, *world).digest;
  };
  const std::string first = digest(spec());
  fs::copy_file(ids(), folder_ / "moved.jsonl");
  v1::ConvertSpec changed = spec();
  changed.mutable_calibration()->mutable_data(0)->set_path(folder_ / "moved.jsonl");
  changed.mutable_calibration()->mutable_data(0)->set_domain("other");
  EXPECT_EQ(digest(changed), first);
  EXPECT_EQ(digest(spec("independent_random")), first) << "the same text for another method";

  std::set<std::string> all{first, digest(spec(), 4)};
  changed.mutable_calibration()->set_tokens(1000);
  all.insert(digest(changed));
  changed.mutable_calibration()->mutable_data(0)->set_weight(2);
  all.insert(digest(changed));
  changed.mutable_calibration()->mutable_data(0)->set_max_documents(59);
  all.insert(digest(changed));
  testing::write_calibration(folder_ / "moved.jsonl", 60, config.vocab_size, /*seed=*/99);
  all.insert(digest(changed));
  EXPECT_EQ(all.size(), 6U);
}

TEST_F(CalibrationStoreTest, DamagedPartsAreMadeAgain) {
  convert(spec(), folder_ / "first");
  const auto whole = files_in(store());
  int damaged = 0;
  for (const auto& [name, bytes] : whole) {
    if (bytes.empty()) continue;  // the lock
    const fs::path path = store() / name;
    std::string flipped = bytes;
    flipped[bytes.size() / 2] ^= 1;
    for (const std::string& bad : {bytes.substr(0, bytes.size() / 2), flipped, std::string()}) {
      write_file_atomically(path, bad);
      const fs::path output = folder_ / ("again-" + std::to_string(damaged++));
      ::testing::internal::CaptureStderr();
      convert(spec(), output);
      EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("event=calibration_damaged")) << name;
      EXPECT_EQ(files_in(output), files_in(folder_ / "first")) << name;
      EXPECT_EQ(files_in(store()), whole) << name;
    }
  }
  EXPECT_EQ(damaged, 12);
}

TEST_F(CalibrationStoreTest, IsTheSameAtAnyNumberOfRanks) {
  std::vector<std::map<std::string, std::string>> kept, made, taken;
  for (const int ranks : {1, 2, 4}) {
    const std::string number = std::to_string(ranks);
    testing::run_ranks(ranks, [&](Communicator& world) { convert(spec(), folder_ / ("made-" + number), world); });
    kept.push_back(files_in(store()));
    // Four ranks take what one kept, and the other way round.
    testing::run_ranks(5 - ranks, [&](Communicator& world) { convert(spec(), folder_ / ("taken-" + number), world); });
    made.push_back(files_in(folder_ / ("made-" + number)));
    taken.push_back(files_in(folder_ / ("taken-" + number)));
    fs::remove_all(store());
  }
  EXPECT_EQ(kept[0], kept[1]);
  EXPECT_EQ(kept[0], kept[2]);
  for (size_t i = 0; i < made.size(); ++i) {
    EXPECT_EQ(made[i], made[0]);
    EXPECT_EQ(taken[i], made[0]);
  }
}

TEST_F(CalibrationStoreTest, TwoGangsAtOnceLeaveOneWholeCalibration) {
  std::vector<std::string> digests(2);
  testing::run_ranks(2, [&](Communicator& both) {
    const auto alone = make_self_communicator();
    const int gang = both.rank();
    for (int round = 0; round < 5; ++round) {
      digests[gang] = convert(spec(), folder_ / concat("gang-", gang, "-", round), *alone)["calibration"]["digest"];
      both.barrier("round");
      if (gang == 0 && round < 4) fs::remove_all(store());
      both.barrier("removed");
    }
  });
  EXPECT_EQ(digests[0], digests[1]);
  EXPECT_EQ(files_in(folder_ / "gang-0-0"), files_in(folder_ / "gang-1-4"));
  EXPECT_THAT(parts_in(store()),
              ElementsAre("importance", "importance", "importance", "rows.json", "rows.lock", "rows.safet"));
}

TEST_F(CalibrationStoreTest, WhereNothingCanBeWrittenAWarningIsAllThatHappens) {
  write_file_atomically(store(), "a file where the folder should be");
  ::testing::internal::CaptureStderr();
  convert(spec(), folder_ / "out");
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("event=calibration_not_kept"));
  EXPECT_TRUE(fs::exists(folder_ / "out/conversion.json"));
}

}  // namespace
}  // namespace moe
