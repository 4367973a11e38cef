# Every dependency that is not ours, as an imported target: moe::torch and moe::onednn are our own, the rest is as the
# packages name them. deploy/install_deps.sh installs them.

find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(absl REQUIRED)
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(PkgConfig REQUIRED)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(icu REQUIRED IMPORTED_TARGET icu-uc)
pkg_check_modules(grpcpp REQUIRED IMPORTED_TARGET grpc++)
# Its flags hold a macro for Windows, which would keep the precompiled Torch headers from being used.
set_property(TARGET PkgConfig::grpcpp PROPERTY INTERFACE_COMPILE_OPTIONS "")
pkg_check_modules(sqlite REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(prometheus REQUIRED IMPORTED_TARGET prometheus-cpp-core)
pkg_check_modules(httplib REQUIRED IMPORTED_TARGET cpp-httplib)

include(moe_onednn)

# LibTorch out of the PyPI wheel: headers, torch_cpu and c10; no Python at run time. find_package(Torch) is not used: it
# demands a CUDA toolkit and defines a protobuf target of its own.
if(DEFINED ENV{MOE_DEPS})
  set(MOE_DEPS_DEFAULT "$ENV{MOE_DEPS}")
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(MOE_DEPS_DEFAULT "$ENV{XDG_CACHE_HOME}/moe-deps")
else()
  set(MOE_DEPS_DEFAULT "$ENV{HOME}/.cache/moe-deps")
endif()
set(MOE_DEPS "${MOE_DEPS_DEFAULT}" CACHE PATH "Folder that deploy/install_deps.sh filled")
file(GLOB torch_candidates "${MOE_DEPS}/torch/lib/python3*/site-packages/torch")
list(GET torch_candidates 0 MOE_TORCH_ROOT)
if(NOT EXISTS "${MOE_TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch is not in ${MOE_DEPS}: run `bash deploy/install_deps.sh`, or set MOE_DEPS to the folder it filled")
endif()

# The wheel's include folder hides the system's protobuf and fmt with versions of its own; these links come before it.
set(first "${CMAKE_BINARY_DIR}/include_first")
file(MAKE_DIRECTORY "${first}")
foreach(name google fmt)
  if(EXISTS "/usr/include/${name}" AND NOT EXISTS "${first}/${name}")
    file(CREATE_LINK "/usr/include/${name}" "${first}/${name}" SYMBOLIC)
  endif()
endforeach()
add_library(moe_torch INTERFACE)
target_include_directories(moe_torch SYSTEM INTERFACE "${first}" "${MOE_TORCH_ROOT}/include"
                                                      "${MOE_TORCH_ROOT}/include/torch/csrc/api/include")
target_link_libraries(moe_torch INTERFACE "${MOE_TORCH_ROOT}/lib/libtorch_cpu.so" "${MOE_TORCH_ROOT}/lib/libc10.so"
                                          Threads::Threads)
target_link_options(moe_torch INTERFACE "-Wl,-rpath,${MOE_TORCH_ROOT}/lib")
if(TARGET moe::onednn)
  # LibTorch carries a oneDNN of its own and exports a template of it (std::call_once's of gemm_info_t::jit_init). Loaded first it
  # would run in place of libdnnl's, whose AVX2 products then fail as "unimplemented". An option stands before all libraries.
  target_link_options(moe_torch INTERFACE "LINKER:--push-state,--no-as-needed,${MOE_DNNL_LIBRARY},--pop-state")
endif()
add_library(moe::torch ALIAS moe_torch)
