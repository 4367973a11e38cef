#!/usr/bin/env bash
# Builds everything and runs every test that this machine can run; a skipped test prints why.
#
#   bash deploy/test.sh                  all
#   bash deploy/test.sh -L unit          only tests with this label: unit mpi e2e service peer fault gpu style asan fuzz
#   bash deploy/test.sh -R Tokenizer     only tests whose name matches
#   bash deploy/test.sh --full           all, in their full sizes (says first what that adds to the default run); also with -L, -R
#   bash deploy/test.sh --fuzz [SECONDS] instead, each fuzz target for that long (default 60) on inputs that nobody tried before
#
# Ends with the seconds of each phase, the ten slowest tests and one line: N passed, N failed, N skipped (--fuzz: one line per target).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

cd "$moe_root"
if [[ "${1:-}" == --full ]]; then
  shift
  export MOE_FULL=1
  echo "the full run; to the default run it adds:"
  sed -n '/^<!-- full run -->$/,/^<!-- end -->$/s/^| `//p' docs/testing.md | sed -E 's/`//g; s/^/  /; s/ \|$//; s/ \| /: /; s/ \| /; in full: /'
fi
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

# phase NAME: announces it; the closing lines say how long each took.
phase_names=()
phase_starts=()
phase() {
  phase_names+=("$1")
  phase_starts+=("$SECONDS")
  announce "${#phase_names[@]}/7 $1"
}
phase "dependencies"
bash deploy/install_deps.sh --peers || give_up "installing dependencies failed; the reason is above"
phase "release build"
build_preset release
phase "sanitizer build (parsers, loaders, dispatch, pipeline)"
build_preset asan moe_sanitized
phase "fuzz build (parsers)"
build_preset fuzz

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
phase "tests"
run_tests release "$@" || status=1
phase "sanitizer tests"
run_tests asan "$@" || status=1
phase "fuzz targets on their fixed inputs"
rm -f build/fuzz/Testing/Temporary/LastTest.log
run_tests fuzz "$@" || status=1
grep -h '^fuzz ' build/fuzz/Testing/Temporary/LastTest.log 2>/dev/null || true

python3 tools/test_results.py build/release build/asan build/fuzz >build/test-results.txt || status=1
sed '$d' build/test-results.txt
printf '\nThe phases, in seconds:\n'
phase_starts+=("$SECONDS")
for i in "${!phase_names[@]}"; do
  printf '%8d  %s\n' "$((phase_starts[i + 1] - phase_starts[i]))" "${phase_names[i]}"
done
announce "done in $((SECONDS - moe_started)) s"
[[ "$(tail -n 1 build/test-results.txt)" != "0 passed, 0 failed, 0 skipped" ]] || give_up "no test matches $*"
tail -n 1 build/test-results.txt
exit "$status"
