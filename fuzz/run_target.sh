#!/usr/bin/env bash
# Runs one fuzz target of a build and prints one line: how many inputs it tried, or the input that broke it.
#
#   bash fuzz/run_target.sh build/fuzz safetensors_header -max_total_time=60        any flags of libFuzzer
#
# Starts from the seeds of the build alone, so that the same flags with the same -seed run the same inputs. Exit code 1 for a finding.
set -euo pipefail

build=$(cd "$1" && pwd)
target=$2
shift 2
source_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
log="$build/$target.log"
findings="$build/findings/$target-"
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
mkdir -p "$build/findings"

status=0
"$build/bin/moe_${target}_fuzz" "$found" "$build/seeds/$target" -dict="$source_folder/$target.dict" -artifact_prefix="$findings" \
  -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 "$@" >"$log" 2>&1 || status=$?
executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log" | tail -1)
coverage=$(grep -oE 'cov: [0-9]+' "$log" | tail -1 | grep -oE '[0-9]+' || true)
if ((status == 0)); then
  echo "fuzz $target: ${executions:-?} executions, ${rate:-?} a second, ${coverage:-?} edges covered, no finding"
  exit 0
fi
input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
echo "fuzz $target: FINDING after ${executions:-?} executions: ${input:-no input was kept}"
echo "  why: $(grep -m1 -E 'finding: |ERROR: |runtime error: ' "$log" || echo "see $log")"
echo "  again: $build/bin/moe_${target}_fuzz ${input:-INPUT}        whole log: $log"
exit 1
