#!/usr/bin/env bash
# Whether the C++ sources and protos are formed as .clang-format says.
#
#   bash tools/check_format.sh          exit 1 and one line for each place that clang-format would change
#   bash tools/check_format.sh --fix    changes them
#
# clang-format 14, that of Debian 12 (deploy/install_deps.sh --peers): other versions break some lines otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  "") mode=(--dry-run -Werror) ;;
  --fix) mode=(-i) ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "check_format: unknown argument '$1'; try --help" >&2; exit 64 ;;
esac

formatter="$(command -v clang-format-14 || command -v clang-format || true)"
[[ -n "$formatter" ]] || { echo "check_format: clang-format 14 is missing; bash deploy/install_deps.sh --peers installs it" >&2; exit 1; }
[[ "$("$formatter" --version)" == *"version 14."* ]] ||
  { echo "check_format: version 14 is needed, and this is $("$formatter" --version)" >&2; exit 1; }

mapfile -t files < <(find src tests benchmarks fuzz proto -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.proto' | sort)
((${#files[@]} > 0)) || { echo "check_format: no source found below $PWD" >&2; exit 1; }
# Two lines of code that follow each place are left out: the place is enough.
"$formatter" "${mode[@]}" "${files[@]}" 2>&1 | { grep -E 'clang-format|error' || true; }
exit "${PIPESTATUS[0]}"
