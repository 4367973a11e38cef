#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

/// Launches as plain C++. launches.sed writes `kernel<<<CONFIG>>>(ARGUMENTS)` as
/// `kernel ->*::moe::cuda_host::configured(CONFIG)(ARGUMENTS)`, which the operator below takes.
namespace moe::cuda_host {

struct Config {
  dim3 grid, block;
  size_t dynamic_shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

/// Enqueues the launch: thread() is what each CUDA thread does. Numbers beyond the limits of compute capability 9.0 are
/// left as an error for cudaGetLastError, as CUDA does.
void launch(const void* kernel, const Config& config, std::function<void()> thread);

/// How much dynamic shared memory a launch of this kernel may ask for; 48 KB unless said here.
cudaError_t set_max_dynamic_shared_bytes(const void* kernel, int bytes);

template <typename... Arguments>
struct Call {
  Config config;
  std::tuple<Arguments...> arguments;
};

struct Configured {
  Config config;
  template <typename... Arguments>
  Call<std::decay_t<Arguments>...> operator()(Arguments&&... arguments) const {
    return {config, {std::forward<Arguments>(arguments)...}};
  }
};

inline Configured configured(dim3 grid, dim3 block, size_t dynamic_shared_bytes = 0, cudaStream_t stream = nullptr) {
  return {{grid, block, dynamic_shared_bytes, stream}};
}

template <typename... Parameters, typename... Arguments>
void operator->*(void (*kernel)(Parameters...), Call<Arguments...> call) {
  std::tuple<std::decay_t<Parameters>...> values(std::move(call.arguments));
  launch(reinterpret_cast<const void*>(kernel), call.config,
         [kernel, values = std::move(values)] { std::apply(kernel, values); });
}

}  // namespace moe::cuda_host
