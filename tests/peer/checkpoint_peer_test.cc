// Directories that people have: what transformers 4 and 5 both load to the same function is loaded to that function,
// and the rest is refused in words. checkpoints_oracle.py lists them.
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <optional>
#include <set>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "peer/transformers_oracle.h"
#include "testing/compare.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr double kSameModel = 1e-4;  ///< logits are of size 1 to 10; different weights differ by more than 0.01

void run_script(const fs::path& python, const std::string& command, const fs::path& folder) {
  const testing::ProcessResult result = testing::run_process(
      {python.string(), testing::source_dir() + "/tests/peer/checkpoints_oracle.py", command, folder.string()});
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
}

std::optional<at::Tensor> logits_of(const fs::path& file) {
  if (!fs::exists(file)) return std::nullopt;
  return SafetensorsFile(file).tensor("logits").clone();
}

/// Nothing if they are refused for what is in the files.
std::optional<at::Tensor> ours_of(const fs::path& model, const at::Tensor& ids, std::string& message) {
  try {
    return testing::our_logits(model, ids);
  } catch (const InvalidArgument& error) {
    message = error.what();
    return std::nullopt;
  }
}

TEST(CheckpointPeerTest, LoadsWhatBothTransformersLoadToOneFunctionAndRefusesTheRest) {
  for (const fs::path& python : {testing::peer_python(), testing::peer_python_of_transformers4()}) {
    if (!fs::exists(python))
      GTEST_SKIP() << "no transformers here: " << python << " is missing (deploy/install_deps.sh --peers)";
  }
  const testing::TempDir folder;
  const fs::path variants = folder / "v";
  fs::create_directory(variants);
  run_script(testing::peer_python(), "write", variants);
  run_script(testing::peer_python_of_transformers4(), "load", variants);
  if (HasFatalFailure()) return;
  const at::Tensor ids = SafetensorsFile(variants / "ids.safetensors").tensor("ids").clone();
  int loaded = 0, refused = 0;
  for (const auto& entry : fs::directory_iterator(variants)) {
    if (!entry.is_directory()) continue;
    const fs::path& model = entry.path();
    SCOPED_TRACE(model.filename().string());
    const std::optional<at::Tensor> four = logits_of(model / "logits4.safetensors"),
                                    five = logits_of(model / "logits5.safetensors");
    bool is_expected = four && five && testing::max_difference(*four, *five) < kSameModel;
    if (fs::exists(model / "loaded_by_5_alone")) {
      EXPECT_TRUE(five && !four) << "the exception is none any more";
      is_expected = true;
    }
    if (fs::exists(model / "refused_by_us")) {
      EXPECT_TRUE(is_expected) << "the exception is none any more";
      is_expected = false;
    }
    std::string message;
    const std::optional<at::Tensor> ours = ours_of(model, ids, message);
    EXPECT_EQ(ours.has_value(), is_expected) << message;
    if (ours && five) {
      EXPECT_LT(testing::max_difference(*ours, *five), kSameModel);
      ++loaded;
    } else {
      EXPECT_NE(message.find(model.string()), std::string::npos) << message;
      ++refused;
    }
  }
  std::cout << loaded << " variants loaded, " << refused << " refused\n";
  EXPECT_GE(loaded, 22);
  EXPECT_GE(refused, 13);
}

}  // namespace
}  // namespace moe
