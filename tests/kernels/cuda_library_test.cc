#include "kernels/cuda_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "kernels/matmul.h"
#include "kernels/test_matrix.h"

namespace moe::kernels::testing {
namespace {

using ::testing::HasSubstr;
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
#else
TEST(CudaLibraryTest, ABuildWithoutCudaSaysSo) {
  EXPECT_THAT([] { load_cuda_library(); }, ThrowsMessage<InvalidArgument>(HasSubstr("this build has none")));
}
#endif

}  // namespace
}  // namespace moe::kernels::testing
