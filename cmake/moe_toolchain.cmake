# Compiler launcher, linker, warnings, sanitizers, groups of sources: what every target of ours is built with.

find_program(MOE_CCACHE ccache)
if(MOE_CCACHE)
  # A precompiled header is cached too: ccache must not look at the macros and times that it holds. Objects of another checkout serve as
  # well: paths below this one are hashed as relative ones, and the folder that debug information (build/asan) names is not hashed.
  set(launcher "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "${MOE_CCACHE}")
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${launcher})
endif()

find_program(MOE_MOLD mold)
if(MOE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# g++ 12 reports string concatenation in its own headers as out of bounds (GCC bugs 105329, 105651): those three are off.
# `moe_warnings` is linked privately by our targets, never by generated code.
add_library(moe_warnings INTERFACE)
target_compile_options(moe_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow=local -Wnon-virtual-dtor -Woverloaded-virtual
  -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Werror>)

if(MOE_SANITIZER)
  # The sanitizers' own code confuses g++ 12's analysis of std::function and std::regex.
  target_compile_options(moe_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${MOE_SANITIZER}> $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
  add_link_options(-fsanitize=${MOE_SANITIZER})
endif()

# One code model for libraries and programs, so that one precompiled set serves both.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fPIC>)

# Sums are compared bit for bit across layouts: a product and a sum are never contracted into one rounding.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
endif()

# moe_unite(TARGET): where MOE_UNITY is on, its sources are compiled in groups. Most of a small source's time is its headers' (LibTorch's
# pending templates alone take 2 s in each), so a build from scratch is about twice as fast; after a change a whole group is compiled. A
# group names its sources relative to the checkout, so that another checkout finds its objects in ccache (CMake 4; absolute before).
function(moe_unite target)
  if(MOE_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_RELOCATABLE ON UNITY_BUILD_BATCH_SIZE 8)
    target_include_directories(${target} PRIVATE "${CMAKE_SOURCE_DIR}")
    # A class of one source may have members of types in its anonymous namespace, which g++ reports in every file but the main one.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
endfunction()
