# One line per target elsewhere.

include(GoogleTest)

# The precompiled set of Torch headers, built once; every Torch module reuses it.
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/moe_torch_pch.cc" CONTENT "")
add_library(moe_torch_pch STATIC "${CMAKE_BINARY_DIR}/moe_torch_pch.cc")
target_link_libraries(moe_torch_pch PUBLIC moe::torch PRIVATE moe_warnings)
target_compile_options(moe_torch_pch PUBLIC -fpch-preprocess -Winvalid-pch)
target_precompile_headers(moe_torch_pch PRIVATE <torch/types.h> <torch/csrc/autograd/custom_function.h>)

# moe_library(NAME SOURCES... [PUBLIC targets...] [PRIVATE targets...] [TORCH])
# A module of src/: target moe_NAME, alias moe::NAME. TORCH: uses LibTorch and the precompiled set.
function(moe_library name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  if(arg_SOURCES)
    add_library(moe_${name} STATIC ${arg_SOURCES})
    moe_unite(moe_${name})
    set(scope PUBLIC)
    target_link_libraries(moe_${name} PRIVATE moe_warnings ${arg_PRIVATE})
    if(arg_TORCH)
      moe_use_torch(moe_${name})
    endif()
  else()
    add_library(moe_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(moe_${name} ${scope} "${CMAKE_SOURCE_DIR}/src")
  target_link_libraries(moe_${name} ${scope} ${arg_PUBLIC})
  add_library(moe::${name} ALIAS moe_${name})
endfunction()

function(moe_use_torch target)
  target_link_libraries(${target} PUBLIC moe::torch)
  target_compile_options(${target} PRIVATE -fpch-preprocess -Winvalid-pch)
  target_precompile_headers(${target} REUSE_FROM moe_torch_pch)
endfunction()

# Where the product is optimised, what only tests it is compiled a quarter faster with less; not with none, which would keep the
# precompiled set from being used.
set(MOE_TEST_OPTIMIZATION $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O1>)

# moe_test_support(NAME SOURCES... [LIBRARIES targets...] [TORCH])
# Library moe_NAME of what several test binaries share, compiled once. Its headers are found below tests/.
function(moe_test_support name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;LIBRARIES" ${ARGN})
  add_library(moe_${name} STATIC ${arg_SOURCES})
  target_include_directories(moe_${name} PUBLIC "${CMAKE_SOURCE_DIR}/tests")
  target_link_libraries(moe_${name} PRIVATE moe_warnings PUBLIC ${arg_LIBRARIES} moe_testing_paths GTest::gmock)
  target_compile_options(moe_${name} PRIVATE ${MOE_TEST_OPTIMIZATION})
  if(arg_TORCH)
    moe_use_torch(moe_${name})
  endif()
endfunction()

# Threads that wait sleep (src/common/polite_waiting.cc does it for programs, this for test binaries and their children). LibTorch
# holds memory until the process ends, and defines some symbols twice; neither is ours to report.
set(MOE_TEST_ENVIRONMENT "OMP_NUM_THREADS=1;MKL_NUM_THREADS=1;OMP_WAIT_POLICY=PASSIVE;ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0")

# moe_test(NAME SOURCES... LIBRARIES targets... [LABELS ...] [TORCH] [RANKS n...] [TIMEOUT seconds] [PROCESSORS n] [TOGETHER suite...])
# A GoogleTest binary moe_NAME_tests; every case is a CTest test, with TORCH and no other label than unit every suite
# (moe_suites.cmake). TOGETHER: the cases of these suites are one, since what they share (a run to compare with) costs more than they
# do. RANKS: instead, the whole binary runs under a real mpirun once per number
# of ranks (its main is tests/testing/mpi_main.cc).
function(moe_test name)
  cmake_parse_arguments(arg "TORCH" "TIMEOUT;PROCESSORS" "SOURCES;LIBRARIES;LABELS;RANKS;TOGETHER" ${ARGN})
  set(target moe_${name}_tests)
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  if(MOE_SANITIZER)
    if(NOT arg_LABELS STREQUAL "unit" OR arg_RANKS)
      return()
    endif()
    set(arg_LABELS asan)
    add_dependencies(moe_sanitized ${target})
  endif()
  add_executable(${target} ${arg_SOURCES})
  target_include_directories(${target} PRIVATE "${CMAKE_SOURCE_DIR}/tests")
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES} moe_testing_paths moe_warnings GTest::gmock)
  target_compile_options(${target} PRIVATE ${MOE_TEST_OPTIMIZATION})
  if(arg_TORCH)
    moe_use_torch(${target})
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(NOT arg_PROCESSORS)
    set(arg_PROCESSORS 1)
  endif()
  if(arg_RANKS)
    foreach(ranks ${arg_RANKS})
      add_test(NAME ${name}.ranks${ranks}
               COMMAND bash "${CMAKE_SOURCE_DIR}/deploy/gang.sh" --ranks ${ranks} --once -- $<TARGET_FILE:${target}>)
      set_tests_properties(${name}.ranks${ranks} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} COST ${arg_TIMEOUT} PROCESSORS 2)
    endforeach()
  else()
    target_link_libraries(${target} PRIVATE GTest::gtest_main)
    # One thread per process unless a test asks for more: CTest runs two at a time. Those that may take longest start first, so that no
    # core waits for them at the end.
    list(TRANSFORM arg_TOGETHER APPEND ".*" OUTPUT_VARIABLE others)
    list(PREPEND others "*.DISABLED_*")   # what other cases start by name
    list(JOIN others ":" others)
    foreach(suite ${arg_TOGETHER})
      add_test(NAME ${suite} COMMAND ${target} --gtest_filter=${suite}.*)
      set_tests_properties(${suite} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} PROCESSORS ${arg_PROCESSORS}
                                               COST ${arg_TIMEOUT} ENVIRONMENT "${MOE_TEST_ENVIRONMENT}")
    endforeach()
    if(arg_TORCH AND arg_LABELS MATCHES "^(unit|asan)$")
      set(include_file "${CMAKE_CURRENT_BINARY_DIR}/${target}_suites.cmake")
      file(GENERATE OUTPUT "${include_file}" CONTENT "\
set(moe_suites_binary \"$<TARGET_FILE:${target}>\")
set(moe_suites_filter \"*-${others}\")
set(moe_suites_list \"${CMAKE_CURRENT_BINARY_DIR}/${target}_suites.txt\")
set(moe_suites_environment \"${MOE_TEST_ENVIRONMENT}\")
set(moe_suites_properties LABELS \"${arg_LABELS}\" TIMEOUT ${arg_TIMEOUT} PROCESSORS ${arg_PROCESSORS} COST ${arg_TIMEOUT})
include(\"${CMAKE_SOURCE_DIR}/cmake/moe_suites.cmake\")
")
      set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${include_file}")
    else()
      gtest_discover_tests(${target} DISCOVERY_MODE PRE_TEST TEST_FILTER "*-${others}" PROPERTIES LABELS "${arg_LABELS}"
                           TIMEOUT ${arg_TIMEOUT} PROCESSORS ${arg_PROCESSORS} COST ${arg_TIMEOUT} ENVIRONMENT "${MOE_TEST_ENVIRONMENT}")
    endif()
  endif()
endfunction()

# moe_benchmark(NAME SOURCES... LIBRARIES targets... [TORCH])
function(moe_benchmark name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(moe_${name} ${arg_SOURCES})
  target_include_directories(moe_${name} PRIVATE "${CMAKE_SOURCE_DIR}/benchmarks")
  target_link_libraries(moe_${name} PRIVATE ${arg_LIBRARIES} moe::polite_waiting moe_warnings)
  if(arg_TORCH)
    moe_use_torch(moe_${name})
  endif()
endfunction()

if(MOE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
