// The simulated Torch device keeps the promises of a real one, and breaks programs that count on more.
#include <ATen/Functions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cmath>
#include <thread>
#include <vector>

#include "cuda_host/torch/allocator.h"
#include "cuda_host/torch/record.h"

namespace moe::cuda_host {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::ThrowsMessage;

const at::TensorOptions kOnDevice = at::TensorOptions(at::kCUDA);

c10::Stream other_stream() {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getNewStream({c10::kCUDA, 0});
}

void make_wait(c10::Stream waiting, c10::Stream first) {
  c10::Event event(c10::kCUDA);
  event.record(first);
  event.block(waiting);
}

c10::Stream default_stream() {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getDefaultStream({c10::kCUDA, 0});
}

TEST(TorchDeviceTest, TensorsLieOnItAndComeBackByCopies) {
  EXPECT_TRUE(at::hasCUDA());
  const at::Tensor x = at::arange(6, at::kFloat).view({2, 3}).to(at::kCUDA);
  EXPECT_TRUE(x.is_cuda());
  EXPECT_TRUE((x.t() + x.t()).cpu().equal(at::arange(6, at::kFloat).view({2, 3}).t() * 2));
  EXPECT_TRUE(std::isnan(at::empty({1}, kOnDevice).item<float>())) << "memory that nobody wrote";
}

TEST(TorchDeviceDeathTest, TheHostCannotTouchIt) {
  const at::Tensor x = at::ones({4}, kOnDevice);
  EXPECT_EQ(x.sum().item<float>(), 4);
  EXPECT_DEATH(
      {
        volatile float value = x.const_data_ptr<float>()[0];
        static_cast<void>(value);
      },
      "");
}

TEST(TorchDeviceTest, DevicesDoNotMix) {
  const at::Tensor here = at::ones({2, 2}), there = at::ones({2, 2}, kOnDevice);
  EXPECT_THAT([&] { at::mm(there, here); }, ThrowsMessage<c10::Error>(HasSubstr("on the same device")));
  EXPECT_EQ((there * at::scalar_tensor(2)).sum().item<float>(), 8) << "a number is of every device";
}

TEST(TorchDeviceTest, AStreamDoesNotSeeWhatItDidNotWaitFor) {
  const c10::Stream other = other_stream();
  at::Tensor x = at::zeros({3}, kOnDevice);
  make_wait(other, default_stream());
  {
    const c10::StreamGuard guard(other);
    x.fill_(1);
  }
  EXPECT_EQ(x.sum().item<float>(), 0) << "nobody waited";
  make_wait(default_stream(), other);
  EXPECT_EQ(x.sum().item<float>(), 3);
}

TEST(TorchDeviceTest, MemoryGoesBackToItsStream) {
  const c10::Stream other = other_stream();
  const at::Tensor kept = at::empty({4096}, kOnDevice);
  const void* freed = nullptr;
  {
    const at::Tensor x = at::empty({5000}, kOnDevice);
    freed = x.const_data_ptr();
  }
  {
    const c10::StreamGuard guard(other);
    EXPECT_NE(at::empty({5000}, kOnDevice).const_data_ptr(), freed);
  }
  const int64_t taken = device_allocations();
  EXPECT_EQ(at::empty({5000}, kOnDevice).const_data_ptr(), freed);
  EXPECT_EQ(device_allocations(), taken);
}

/// What another stream reads of a tensor that its owner let go of: the sum of 100 ones.
float read_by_other_stream(bool says_so) {
  const c10::Stream other = other_stream(), own = default_stream();
  at::Tensor out = at::zeros({100}, kOnDevice);
  {
    at::Tensor x = at::ones({100}, kOnDevice);
    make_wait(other, own);
    const c10::StreamGuard guard(other);
    out.copy_(x);
    if (says_so) x.record_stream(other);
  }
  const at::Tensor next = at::full({100}, 7, kOnDevice);  // would take the memory
  EXPECT_EQ(next.sum().item<float>(), 700);
  make_wait(own, other);
  return out.sum().item<float>();
}

TEST(TorchDeviceTest, ATensorOfAnotherStreamMustSayWhoUsesIt) {
  EXPECT_EQ(read_by_other_stream(true), 100);
  EXPECT_NE(read_by_other_stream(false), 100);
}

TEST(TorchDeviceTest, WaitsOfTheHostAreCounted) {
  const at::Tensor x = at::ones({8}, kOnDevice);
  const auto waits_of = [](const auto& work) {
    const int64_t before = host_waits();
    work();
    return host_waits() - before;
  };
  EXPECT_EQ(waits_of([&] { x.add(1).mul(2).sum(); }), 0);
  EXPECT_EQ(waits_of([&] { x.clone().zero_(); }), 0);
  EXPECT_EQ(
      waits_of([&] { at::ones({2}, at::TensorOptions().pinned_memory(true)).to(at::kCUDA, /*non_blocking=*/true); }),
      0);
  EXPECT_EQ(waits_of([&] { at::ones({2}).to(at::kCUDA); }), 1);
  EXPECT_EQ(waits_of([&] { x.cpu(); }), 1);
  EXPECT_EQ(waits_of([&] { x.sum().item<float>(); }), 1);
  EXPECT_EQ(waits_of([&] { at::nonzero(x); }), 1);
  EXPECT_EQ(last_host_wait(), "aten::nonzero");
  EXPECT_EQ(waits_of([&] { x.index({x.gt(0)}); }), 1);
}

TEST(TorchDeviceTest, PinnedMemoryIsReadWhenTheDeviceComesToIt) {
  at::Tensor host = at::ones({4}, at::TensorOptions().pinned_memory(true));
  const at::Tensor x = host.to(at::kCUDA, /*non_blocking=*/true);
  host.fill_(5);  // too early
  EXPECT_EQ(x.sum().item<float>(), 20);
}

TEST(TorchDeviceTest, OperatorsThatRanOnTheCpuAreOnRecord) {
  const at::Tensor x = at::ones({3, 3}, kOnDevice);
  at::mm(x, x);
  EXPECT_THAT(operators_run(), Contains(Key("aten::mm.out")));
  EXPECT_THAT(operators_run(), Not(Contains(Key("aten::empty.memory_format"))));
}

struct Square : torch::autograd::Function<Square> {
  static inline std::thread::id backward_thread;
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return x * x;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    backward_thread = std::this_thread::get_id();
    return {2 * gradients[0] * context->get_saved_variables()[0]};
  }
};

TEST(TorchDeviceTest, BackwardRunsOnTheDevicesOwnThread) {
  at::Tensor x = at::arange(4, kOnDevice.dtype(at::kFloat)).requires_grad_(true);
  Square::apply(x).sum().backward();
  EXPECT_TRUE(x.grad().cpu().equal(at::arange(4, at::kFloat) * 2));
  EXPECT_NE(Square::backward_thread, std::this_thread::get_id());
}

}  // namespace
}  // namespace moe::cuda_host
