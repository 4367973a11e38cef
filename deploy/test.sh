#!/usr/bin/env bash
# Builds everything and runs every test that this machine can run; a skipped test prints why.
#
#   bash deploy/test.sh                  all
#   bash deploy/test.sh -L unit          only tests with this label: unit mpi e2e service peer fault gpu style asan fuzz
#   bash deploy/test.sh -R Tokenizer     only tests whose name matches
#   bash deploy/test.sh --fuzz [SECONDS] instead, each fuzz target for that long (default 60) on inputs that nobody tried before
#
# Ends with one line: N passed, N failed, N skipped (--fuzz: one line per target).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

cd "$moe_root"
if [[ "${1:-}" == --fuzz ]]; then
  seconds="${2:-60}"
  [[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "test.sh: --fuzz takes a number of seconds, not '$seconds'" >&2; exit 64; }
  announce "1/3 dependencies"
  bash deploy/install_deps.sh --peers || give_up "installing dependencies failed; the reason is above"
  announce "2/3 fuzz build"
  build_preset fuzz
  announce "3/3 fuzz targets, $seconds s each"
  findings=0
  for source in fuzz/*_fuzz.cc; do
    bash fuzz/run_target.sh build/fuzz "$(basename "$source" _fuzz.cc)" -max_total_time="$seconds" || findings=$((findings + 1))
  done
  announce "done in $((SECONDS - moe_started)) s"
  ((findings == 0)) || give_up "$findings targets have a finding; the input and how to run it again are above"
  exit 0
fi

announce "1/5 dependencies"
bash deploy/install_deps.sh --peers || give_up "installing dependencies failed; the reason is above"
announce "2/5 release build"
build_preset release
announce "3/5 sanitizer build (parsers, loaders, dispatch, pipeline)"
build_preset asan moe_sanitized
announce "4/5 fuzz build (parsers)"
build_preset fuzz
announce "5/5 tests"

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
rm -f build/fuzz/Testing/Temporary/LastTest.log
run_tests fuzz "$@" || status=1
grep -h '^fuzz ' build/fuzz/Testing/Temporary/LastTest.log 2>/dev/null || true

count() { cat build/{release,asan,fuzz}-tests.log | grep -cE "$1" || true; }
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
