# Configures, builds (one job) and tests src/kernels alone. SOURCE, BUILD, GENERATOR are given.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${result}): ${command}")
  endif()
endfunction()

run("${CMAKE_COMMAND}" -S "${SOURCE}" -B "${BUILD}" -G "${GENERATOR}" -DMOE_ENABLE_CUDA=OFF -DMOE_DNNL_LIBRARY=OFF
    -DMOE_BUILD_TESTS=ON "-DCMAKE_CXX_FLAGS_RELEASE=-O1")  # half the time of -O3
run("${CMAKE_COMMAND}" --build "${BUILD}" --parallel 1)
run("${BUILD}/bin/moe_kernels_tests" --gtest_brief=1 --gtest_filter=-Cuda/*)
