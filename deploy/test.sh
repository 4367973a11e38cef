#!/usr/bin/env bash
# Builds everything and runs every test that this machine can run; a skipped test prints why.
#
#   bash deploy/test.sh                  all
#   bash deploy/test.sh -L unit          only tests with this label: unit mpi e2e service peer fault gpu style asan
#   bash deploy/test.sh -R Tokenizer     only tests whose name matches
#
# Ends with one line: N passed, N failed, N skipped.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

cd "$moe_root"
announce "1/4 dependencies"
bash deploy/install_deps.sh --peers || give_up "installing dependencies failed; the reason is above"
announce "2/4 release build"
build_preset release
announce "3/4 sanitizer build (parsers, loaders, dispatch, pipeline)"
build_preset asan moe_sanitized
announce "4/4 tests"

# run_tests PRESET ARGUMENT...: runs CTest, keeps its log and passes its exit code on (8: a test failed).
run_tests() {
  local preset="$1" status=0
  shift
  : >"build/$preset-tests.log"
  "$moe_ctest" --test-dir "build/$preset" -j 2 --output-on-failure --no-tests=ignore "$@" >"build/$preset-tests.log" 2>&1 &
  tail --pid=$! -n +1 -f "build/$preset-tests.log" 2>/dev/null | grep -vE '^ +Start +[0-9]+:' || true
  wait $! || status=$?
  return "$status"
}
status=0
run_tests release "$@" || status=1
run_tests asan "$@" || status=1

count() { cat build/release-tests.log build/asan-tests.log | grep -cE "$1" || true; }
passed=$(count '^ *[0-9]+/[0-9]+ Test +#[0-9]+: .* Passed ')
skipped=$(count '^ *[0-9]+/[0-9]+ Test +#[0-9]+: .*\*\*\*Skipped ')
total=$(count '^ *[0-9]+/[0-9]+ Test +#[0-9]+: ')
failed=$((total - passed - skipped))
if ((skipped > 0)); then
  printf '\nSkipped, and why (bash deploy/test.sh -R NAME shows more):\n'
  for preset in release asan; do
    python3 tools/skip_reasons.py "build/$preset/Testing/Temporary/LastTest.log" || true
  done
fi
announce "done in $((SECONDS - moe_started)) s"
((total > 0)) || give_up "no test matches $*"
echo "$passed passed, $failed failed, $skipped skipped"
exit "$((status != 0 || failed > 0))"
