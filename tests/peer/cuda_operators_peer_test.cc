// Every operator that a training runs on the simulated GPU has a kernel for real ones in LibTorch's CUDA library, which
// tells without a GPU.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/subprocess.h"

namespace moe {
namespace {

constexpr char kScript[] = R"(
import sys, torch
names = [line.strip() for line in open(sys.argv[1]) if line.strip() and line[0] != '#']
has = torch._C._dispatch_has_kernel_for_dispatch_key
assert has('aten::mm', 'CUDA') and not has('aten::_mkldnn_reshape', 'CUDA'), 'this torch has no CUDA, or the question is wrong'
print(len(names), *(name for name in names if not has(name, 'CUDA')))
)";

TEST(CudaOperatorsPeerTest, AllHaveKernels) {
  if (!std::filesystem::exists(testing::peer_python())) GTEST_SKIP() << "no peers: bash deploy/install_deps.sh --peers";
  const std::string list = testing::source_dir() + "/tests/cuda_host/torch/operators.txt";
  const testing::ProcessResult result = testing::run_process({testing::peer_python(), "-c", kScript, list});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_GE(std::stoi(result.out), 10) << "the list is not read";
  EXPECT_EQ(result.out.find("aten::"), std::string::npos) << "without a kernel, of so many: " << result.out;
}

}  // namespace
}  // namespace moe
