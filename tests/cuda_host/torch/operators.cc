// Operators on tensors of the simulated device. Those that only lay out memory are Torch's own; copies and fills are
// work of the current stream; every other one runs on the CPU, on copies, once the current stream has come so far, and
// no further: what another stream was to have written is not there yet unless somebody waited.
#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>
#include <torch/types.h>

#include <exception>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "cuda_host/memory.h"
#include "cuda_host/streams.h"
#include "cuda_host/torch/allocator.h"
#include "cuda_host/torch/pinned.h"
#include "cuda_host/torch/record_keeping.h"
#include "cuda_host/torch/streams.h"

namespace moe::cuda_host {
namespace {

/// Operators whose result's shape, or the caller's next step, depends on values: on a GPU the host waits for them.
/// Indexing with a mask asks for nonzero.
const std::set<std::string>& waiting_operators() {
  static const std::set<std::string> names{"aten::nonzero",
                                           "aten::masked_select",
                                           "aten::_unique2",
                                           "aten::unique_dim",
                                           "aten::equal",
                                           "aten::bincount",
                                           "aten::is_set_to",
                                           "aten::nonzero.out",
                                           "aten::masked_select.out",
                                           "aten::repeat_interleave.Tensor"};
  return names;
}

cudaStream_t current_stream(const at::Tensor& tensor) {
  return native_stream(current_torch_stream(tensor.device()));
}

/// Work of a stream, here and now, behind what it holds. Its exception is the caller's.
void run_on(cudaStream_t stream, const std::function<void()>& work) {
  std::exception_ptr failed;
  enqueue(stream, [&] {
    try {
      work();
    } catch (...) {
      failed = std::current_exception();
    }
  });
  wait_for(end_of(stream_of(stream)));
  if (failed != nullptr) std::rethrow_exception(failed);
}

/// The memory of a tensor, which it does not keep alive: on a GPU nothing else does either.
struct Place {
  explicit Place(const at::Tensor& tensor)
      : data(tensor.numel() == 0 ? nullptr : tensor.mutable_data_ptr()),
        sizes(tensor.sizes().vec()),
        strides(tensor.strides().vec()),
        type(tensor.scalar_type()) {}
  /// As a tensor of the CPU, to be used while device memory is open.
  at::Tensor on_host() const { return at::from_blob(data, sizes, strides, at::TensorOptions(type)); }

  void* data;
  std::vector<int64_t> sizes, strides;
  at::ScalarType type;
};

/// Set while an operator runs on the CPU: the copies that it makes are not the program's.
thread_local bool is_in_operator = false;

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &torch_allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &torch_allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

/// Between devices and the host. Asynchronous where it is asked for and the host's memory is pinned, and within one
/// device; otherwise the host waits, as it does in Torch.
at::Tensor& copy_(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  if (to.numel() == 0) return to;
  const at::Tensor source = from.sizes() == to.sizes() ? from : from.expand(to.sizes());
  TORCH_CHECK(!(to.is_cuda() && source.is_cuda() && to.device() != source.device()),
              "cuda_host copies within one device, not from ", source.device(), " to ", to.device());
  const cudaStream_t stream = current_stream(to.is_cuda() ? to : source);
  const auto copy = [to = Place(to), from = Place(source)] { to.on_host().copy_(from.on_host()); };
  if (to.is_cuda() && source.is_cuda()) {
    enqueue(stream, copy);
    return to;
  }
  const at::Tensor& host = to.is_cuda() ? source : to;
  if (non_blocking && is_pinned(host.const_data_ptr())) {
    // Torch's pinned memory is kept until the copy is done.
    enqueue(stream, [copy, host] { copy(); });
    return to;
  }
  if (!is_in_operator) count_host_wait(to.is_cuda() ? "a copy to the device" : "a copy from the device");
  run_on(stream, copy);
  return to;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to_in, bool non_blocking) {
  at::Tensor to = to_in;
  copy_(to, from, non_blocking);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to_in) {
  at::Tensor to = to_in;
  to.resize_(from.sizes());
  copy_(to, from, /*non_blocking=*/false);
  return to;
}

at::Tensor& fill_scalar(at::Tensor& tensor, const at::Scalar& value) {
  if (tensor.numel() > 0)
    enqueue(current_stream(tensor), [place = Place(tensor), value] { place.on_host().fill_(value); });
  return tensor;
}

at::Tensor& zero_(at::Tensor& tensor) {
  return fill_scalar(tensor, 0);
}

const at::Tensor& resize_(const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  at::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  impl.set_sizes_contiguous(size);
  const size_t bytes = static_cast<size_t>(impl.numel() + impl.storage_offset()) * impl.itemsize();
  if (impl.storage().nbytes() >= bytes) return tensor;
  c10::DataPtr data = torch_allocator().allocate(bytes);
  if (impl.storage().nbytes() > 0)
    torch_allocator().copy_data(data.get(), impl.storage().data(), impl.storage().nbytes());
  impl.storage().set_data_ptr_noswap(std::move(data));
  impl.storage().set_nbytes(bytes);
  return tensor;
}

at::Scalar local_scalar_dense(const at::Tensor& tensor) {
  if (!is_in_operator) count_host_wait("item()");
  const bool was_in_operator = std::exchange(is_in_operator, true);
  const at::Scalar value = tensor.cpu().item();
  is_in_operator = was_in_operator;
  return value;
}

void record_stream(at::Tensor& tensor, c10::Stream stream) {
  use_on_stream(tensor.storage().data(), stream);
}

/// As a kernel on a GPU would: every tensor on one device, but for numbers; indices may lie on the CPU.
void check_devices(const std::string& name, const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  static const std::set<std::string> with_indices_anywhere{"aten::index.Tensor",     "aten::index.Tensor_out",
                                                           "aten::index_put_",       "aten::index_put",
                                                           "aten::_index_put_impl_", "aten::_unsafe_index.Tensor"};
  if (with_indices_anywhere.count(name) > 0) return;
  const auto check = [&](const at::Tensor& tensor) {
    TORCH_CHECK(!tensor.defined() || tensor.is_cuda() || tensor.dim() == 0,
                "Expected all tensors to be on the same "
                "device: ",
                name, " got one on the CPU, ", tensor.sizes(), ", beside one on CUDA");
  };
  for (size_t i = stack.size() - op.schema().arguments().size(); i < stack.size(); ++i) {
    if (stack[i].isTensor()) check(stack[i].toTensor());
    if (stack[i].isTensorList()) {
      for (const at::Tensor& tensor : stack[i].toTensorVector()) check(tensor);
    }
  }
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string name = c10::toString(op.operator_name());
  check_devices(name, op, *stack);
  if (!is_in_operator) {
    count_operator(name);
    if (waiting_operators().count(name) > 0) count_host_wait(name);
  }
  const bool was_in_operator = std::exchange(is_in_operator, true);
  try {
    at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
  } catch (...) {
    is_in_operator = was_in_operator;
    throw;
  }
  is_in_operator = was_in_operator;
}

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("fill_.Scalar", fill_scalar);
  m.impl("zero_", zero_);
  m.impl("resize_", resize_);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("record_stream", record_stream);
}

}  // namespace moe::cuda_host
