#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "kernels/cuda_device.h"

/// The device of a rank. CPU or CUDA; nothing of CUDA is in the process before open_cuda().
namespace moe {

/// Loads CUDA: our kernels (libmoe_cuda) and LibTorch's own; then makes GPU `local_rank`, or, where ranks of a node
/// share GPUs, that number modulo theirs, the calling thread's current one, which it returns. Once, before anything
/// asks LibTorch whether it has CUDA. `library`: kernels::load_cuda_library.
///
/// Throws   InvalidArgument without libmoe_cuda; HardwareError without LibTorch's part, with what is missing, or
///          without a GPU.
kernels::CudaDevice open_cuda(const std::string& library, int local_rank);

/// Of the name in a job: "cpu" (or nothing), or "cuda", the calling thread's current GPU. Throws InvalidArgument for
/// another name, and for "cuda" before open_cuda().
at::Device device_of(const std::string& name);

/// The tensor on this device: itself, or a copy. From the host's memory the copy is made when the device comes to it,
/// and the host goes on.
at::Tensor on_device(const at::Tensor& tensor, at::Device device);

}  // namespace moe
