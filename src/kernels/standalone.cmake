# What the top-level CMakeLists.txt gives the kernels when they are part of the whole build.
#
# MOE_ENABLE_CUDA         AUTO (where nvcc is found), ON, OFF
# MOE_CUDA_ARCHITECTURES  90a unless said
# MOE_BUILD_TESTS         ON builds moe_kernels_tests: with MOE_GTEST_SOURCE (GoogleTest's source folder; Debian's package
#                         googletest has it in /usr/src/googletest), or with an installed GoogleTest
option(MOE_BUILD_TESTS "Build moe_kernels_tests" OFF)
set(MOE_GTEST_SOURCE "" CACHE PATH "GoogleTest's source folder, where GoogleTest is not installed")
set(MOE_ENABLE_CUDA AUTO CACHE STRING "Compile the CUDA kernels (AUTO: where nvcc is found)")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(MOE_REPOSITORY "${CMAKE_CURRENT_SOURCE_DIR}/../..")
list(APPEND CMAKE_MODULE_PATH "${MOE_REPOSITORY}/cmake")
include(moe_toolchain)
include(moe_onednn)

# The same call as in cmake/moe_targets.cmake, for this one module.
function(moe_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  set(target moe_${name}_tests)
  add_executable(${target} ${arg_SOURCES})
  target_include_directories(${target} PRIVATE "${MOE_REPOSITORY}/tests")
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES} moe_warnings GTest::gmock GTest::gtest_main)
  add_test(NAME ${target} COMMAND ${target})
endfunction()

if(MOE_BUILD_TESTS)
  enable_testing()
  if(MOE_GTEST_SOURCE)
    set(INSTALL_GTEST OFF)
    add_subdirectory("${MOE_GTEST_SOURCE}" "${CMAKE_BINARY_DIR}/googletest" EXCLUDE_FROM_ALL)
    foreach(library gmock gtest_main)
      if(NOT TARGET GTest::${library})
        add_library(GTest::${library} ALIAS ${library})
      endif()
    endforeach()
  else()
    find_package(GTest REQUIRED)
  endif()
endif()
