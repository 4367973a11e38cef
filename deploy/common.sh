# Sourced by the scripts beside it: where things are, how a step is announced and how it fails.
set -euo pipefail

moe_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
moe_deps="${MOE_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/moe-deps}"
moe_started=$SECONDS
# shellcheck disable=SC2034  # used by the scripts that source this file
moe_cmake="$moe_deps/torch/bin/cmake"
# shellcheck disable=SC2034
moe_ctest="$moe_deps/torch/bin/ctest"

# announce TEXT: one line before each step, with the seconds since the start.
announce() { printf '\n==> [%4d s] %s\n' "$((SECONDS - moe_started))" "$*"; }

# give_up ADVICE: after a step failed.
give_up() {
  printf '\nFAILED: %s\n' "$*" >&2
  exit 1
}

# build_preset PRESET TARGET...: configures and builds; says what to do when that fails.
build_preset() {
  local preset="$1"
  shift
  local log="$moe_root/build/$preset-build.log"
  mkdir -p "$moe_root/build"
  (cd "$moe_root" && "$moe_cmake" --preset "$preset") >"$log" 2>&1 ||
    { tail -n 30 "$log" >&2; give_up "configuring failed (whole log: $log); if a package is named above, run: bash deploy/install_deps.sh"; }
  # Ninja's lines are shown at most once in two seconds; everything is in the log.
  (cd "$moe_root" && "$moe_cmake" --build --preset "$preset" ${1:+--target "$@"}) 2>&1 | tee -a "$log" |
    awk 'BEGIN { last = 0 } /^\[[0-9]+\/[0-9]+\]/ { now = systime(); if (now - last >= 10) { print "    " $1, $2, $3, $4; fflush(); last = now } next } { print; fflush() }' ||
    give_up "the build failed; the compiler's words are above and in $log. To start afresh: rm -rf build/$preset"
}
