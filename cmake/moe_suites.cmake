# Read by CTest: the cases of a GoogleTest binary that loads LibTorch, as one test a suite, because loading it costs more than most cases
# do. Suites of many cases are cut in pieces, so that both cores have work. tools/test_results.py counts cases all the same.
#
# moe_suites_binary, moe_suites_filter, moe_suites_list (a file of ours), moe_suites_properties: set by the file that includes this one
# (moe_targets.cmake).

set(moe_suites_piece 48)   # cases

get_filename_component(name "${moe_suites_binary}" NAME)
if(NOT EXISTS "${moe_suites_binary}")
  add_test("${name}_NOT_BUILT" "${name}_NOT_BUILT")
  return()
endif()
if(NOT EXISTS "${moe_suites_list}" OR "${moe_suites_binary}" IS_NEWER_THAN "${moe_suites_list}")
  execute_process(COMMAND "${moe_suites_binary}" --gtest_list_tests "--gtest_filter=${moe_suites_filter}"
                  OUTPUT_VARIABLE listed ERROR_VARIABLE complaint RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${moe_suites_binary} --gtest_list_tests failed (${result}): ${complaint}")
  endif()
  file(WRITE "${moe_suites_list}" "${listed}")
endif()

# A line "Prefix/Suite.  # TypeParam = ..." begins a suite; lines with two blanks before them are its cases.
file(STRINGS "${moe_suites_list}" lines REGEX "^(  )?[A-Za-z0-9_/]+")
set(suites "")
foreach(line IN LISTS lines)
  if(line MATCHES "^([A-Za-z0-9_/]+)\\.")
    set(suite "${CMAKE_MATCH_1}")
    list(APPEND suites "${suite}")
    set(cases 0)
  elseif(line MATCHES "^  ")
    math(EXPR cases "${cases} + 1")
    set("cases_${suite}" ${cases})
  endif()
endforeach()
foreach(suite IN LISTS suites)
  math(EXPR pieces "(${cases_${suite}} + ${moe_suites_piece} - 1) / ${moe_suites_piece}")
  math(EXPR last "${pieces} - 1")
  foreach(piece RANGE ${last})
    set(test "${suite}")
    set(environment "${moe_suites_environment}")
    if(pieces GREATER 1)
      math(EXPR number "${piece} + 1")
      set(test "${suite}.${number}_of_${pieces}")
      list(APPEND environment GTEST_TOTAL_SHARDS=${pieces} GTEST_SHARD_INDEX=${piece})
    endif()
    add_test("${test}" "${moe_suites_binary}" "--gtest_filter=${suite}.*:-*.DISABLED_*")
    set_tests_properties("${test}" PROPERTIES ${moe_suites_properties} ENVIRONMENT "${environment}")
  endforeach()
endforeach()
