// Our safetensors files against the Python package's: theirs load here, ours load there, byte for byte.

#include <gtest/gtest.h>

#include <iostream>

#include "checkpoint/safetensors.h"
#include "testing/peer_python.h"
#include "testing/random_tensor.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

/// Reads our file with the package, checks its metadata, and writes what it read.
constexpr char kScript[] = R"(
import sys
from safetensors import safe_open
from safetensors.torch import load_file, save_file
with safe_open(sys.argv[1], framework="pt") as f:
    assert f.metadata() == {"format": "pt"}, f.metadata()
tensors = load_file(sys.argv[1])
print(len(tensors))
save_file(tensors, sys.argv[2], metadata={"format": "pt"})
)";

TEST(SafetensorsPeerTest, ThereAndBackIsTheSameBytes) {
  if (!std::filesystem::exists(testing::peer_python())) {
    GTEST_SKIP() << "no " << testing::peer_python() << "; run: bash deploy/install_deps.sh --peers";
  }
  const testing::TempDir folder;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  const at::ScalarType types[] = {at::kDouble, at::kLong, at::kFloat, at::kInt, at::kHalf, at::kBFloat16, at::kByte};
  const std::vector<int64_t> shapes[] = {{}, {0}, {3, 0, 2}, {1}, {7, 5}, {2, 3, 4}, {43, 129}};
  for (const at::ScalarType type : types) {
    for (const std::vector<int64_t>& shape : shapes) {
      tensors.emplace_back("tensor." + std::to_string(tensors.size()),
                           testing::random_normal(shape, tensors.size() + 1).mul(50).abs().to(type));
    }
  }
  std::vector<SafetensorsWriter::Spec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  SafetensorsWriter writer(folder / "ours.safetensors", specs);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.finish();

  const testing::ProcessResult result = testing::run_process(
      {testing::peer_python(), "-c", kScript, folder / "ours.safetensors", folder / "theirs.safetensors"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(std::stoul(result.out), tensors.size());
  const SafetensorsFile theirs(folder / "theirs.safetensors");
  EXPECT_EQ(theirs.header().entries.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor back = theirs.tensor(name);
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(back.equal(tensor)) << name;
  }
  std::cout << tensors.size() << " tensors of 7 types and 7 shapes: equal after ours -> theirs -> ours\n";
}

}  // namespace
}  // namespace moe
