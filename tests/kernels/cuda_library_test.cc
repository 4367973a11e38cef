#include "kernels/cuda_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <array>
#include <bit>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"
#include "kernels/test_matrix.h"

namespace moe::kernels::testing {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::NotNull;
using ::testing::ThrowsMessage;

TEST(CudaLibraryTest, AKernelOnCudaBeforeLoadingSaysWhatToDo) {
  if (loaded_cuda_backend() != nullptr) {
    GTEST_SKIP() << "another case of this process loaded the library already; CTest runs each in its own";
  }
  TestMatrix m(DeviceType::kCpu, DType::kFloat32, 2, 2, 0);
  EXPECT_THAT(
      [&] {
        linear_forward(m.view(), m.view(), m.view(), {DeviceType::kCuda, nullptr});
      },
      ThrowsMessage<InvalidArgument>(HasSubstr("no CUDA library is loaded")));
}

TEST(CudaLibraryTest, AFileThatIsNotThereIsNamedWithTheLoadersReason) {
  if (loaded_cuda_backend() != nullptr) {
    GTEST_SKIP() << "another case of this process loaded the library already; CTest runs each in its own";
  }
  EXPECT_THAT([] { load_cuda_library("/nowhere/libmoe_cuda.so"); },
              ThrowsMessage<HardwareError>(HasSubstr("cannot load the CUDA library /nowhere/libmoe_cuda.so: ")));
}

TEST(CudaLibraryTest, AForeignLibraryIsRefused) {
  if (loaded_cuda_backend() != nullptr) {
    GTEST_SKIP() << "another case of this process loaded the library already; CTest runs each in its own";
  }
  EXPECT_THAT([] { load_cuda_library("libm.so.6"); },
              ThrowsMessage<InvalidArgument>(HasSubstr("libm.so.6 is not our CUDA library")));
}

#ifdef MOE_TEST_HAS_CUDA
TEST(CudaLibraryTest, LoadsAndRefusesAMachineWithoutDevice) {
  if (load_cuda_library_and_count_devices() > 0) {
    EXPECT_NO_THROW(load_cuda_library());
  } else {
    EXPECT_THAT([] { load_cuda_library(); }, ThrowsMessage<HardwareError>(HasSubstr("no CUDA device")));
  }
  EXPECT_NE(loaded_cuda_backend(), nullptr);
}

TEST(CudaLibraryTest, HasAVersionOfEveryOp) {
  load_cuda_library_and_count_devices();
  using Functions = std::array<void*, sizeof(Backend) / sizeof(void*)>;  // which is all that a backend is
  EXPECT_THAT(std::bit_cast<Functions>(*loaded_cuda_backend()), Each(NotNull()));
}
#else
TEST(CudaLibraryTest, ABuildWithoutCudaSaysSo) {
  EXPECT_THAT([] { load_cuda_library(); }, ThrowsMessage<InvalidArgument>(HasSubstr("this build has none")));
}
#endif

TEST(CudaLibraryTest, AnOpWithoutACudaVersionSaysSo) {
  EXPECT_THAT([] { throw_no_version("gelu_new", DeviceType::kCuda); },
              ThrowsMessage<InvalidArgument>(HasSubstr("gelu_new has no CUDA version: move its tensors to the CPU")));
}

/// What the case below runs in a copy of this program.
TEST(CudaLibraryTest, DISABLED_PrintsWhatIsFound) {
  try {
    load_cuda_library_and_count_devices();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
  }
}

TEST(CudaLibraryTest, TheFileBesideTheProgramIsTakenFirst) {
  namespace fs = std::filesystem;
  std::string pattern = (fs::temp_directory_path() / "moe-cuda-XXXXXX").string();
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const fs::path folder = pattern, program = folder / "moved program", library = folder / "libmoe_cuda.so";
  fs::copy_file(fs::read_symlink("/proc/self/exe"), program);
  const auto said = [&] {
    const std::string command =
        "'" + program.string() + "' --gtest_also_run_disabled_tests --gtest_filter='*.DISABLED_PrintsWhatIsFound' 2>&1";
    std::string text;
    std::FILE* const pipe = popen(command.c_str(), "r");
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
    pclose(pipe);
    return text;
  };
#ifndef MOE_TEST_HAS_CUDA
  EXPECT_THAT(said(), HasSubstr("nor is there " + library.string())) << "an error names where it looked";
#endif
  std::ofstream(library) << "no library";
  EXPECT_THAT(said(), HasSubstr("cannot load the CUDA library " + library.string() + ": "));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace moe::kernels::testing
