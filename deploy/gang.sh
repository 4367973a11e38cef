#!/usr/bin/env bash
# Starts a gang: one mpirun with the settings that ranks on shared cores need.
#
#   bash deploy/gang.sh --ranks 2 --once -- build/release/bin/moe-worker run pipeline.yaml
#   bash deploy/gang.sh --ranks 4 --threads 2 -- build/release/bin/moe-worker serve --coordinator 127.0.0.1:7070 --data-root /shared/moe
#
#   --ranks N     ranks to start (default 1)
#   --threads T   threads of each rank (default 1)
#   --once        run once and pass the exit code on; without it, a gang that ended for a reason that may pass (exit codes 69 no
#                 coordinator, 70 internal, 71 hardware, 75 released, 76 fenced, 86 hang, or killed) is started again after a wait
#                 of 1 to 60 s. The coordinator is told that it is the same gang (MOE_LAUNCHER_ID: yours, if set, and random digits)
#                 and how the one before ended (MOE_LAUNCHER_LAST_EXIT), so that it need not wait for the lease of the one that died
#
# SIGUSR1 to this script or to mpirun asks the gang to save a checkpoint and leave with 75. SIGTERM or SIGINT to this script ends
# the gang for good.
set -euo pipefail

usage_error() {
  echo "gang: $1; try --help" >&2
  exit 64
}

ranks=1
threads=1
once=0
while (($#)); do
  case "$1" in
    --ranks | --threads)
      [[ "${2:-}" =~ ^[1-9][0-9]{0,3}$ ]] || usage_error "$1 needs a number from 1 to 9999, not '${2:-}'"
      if [[ "$1" == --ranks ]]; then ranks="$2"; else threads="$2"; fi
      shift 2
      ;;
    --once) once=1; shift ;;
    -h | --help) sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --) shift; break ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
done
(($#)) || usage_error "no program given; put it behind --"
command -v mpirun >/dev/null || { echo "gang: mpirun is missing; run: bash deploy/install_deps.sh" >&2; exit 69; }

# Two scripts that inherit one name are still two launchers.
MOE_LAUNCHER_ID="${MOE_LAUNCHER_ID:+$MOE_LAUNCHER_ID-}$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')"
export MOE_LAUNCHER_ID
launch=(mpirun --oversubscribe --bind-to none --quiet -n "$ranks"
  --mca btl_vader_single_copy_mechanism none  # the kernel may forbid it in containers
  --mca orte_abort_print_stack 0
  -x "OMP_NUM_THREADS=$threads" -x "MKL_NUM_THREADS=$threads" -x MKL_DYNAMIC=FALSE -x "OMP_WAIT_POLICY=${OMP_WAIT_POLICY-PASSIVE}"
  -x MOE_LAUNCHER_ID)
(($(id -u) != 0)) || launch+=(--allow-run-as-root)

((once)) && exec "${launch[@]}" "$@"

gang=""
signalled=0
stopping=0
pass_on() {
  signalled=1
  [[ -z "$gang" ]] || kill -s "$1" "$gang" 2>/dev/null || true
}
trap 'pass_on USR1' USR1
trap 'stopping=1; pass_on TERM' TERM INT

# The exit code of `gang`. A signal to this script makes `wait` return early, with a code that is not the gang's.
await_gang() {
  while true; do
    signalled=0
    local code=0
    wait "$gang" || code=$?
    # 127: the wait before this one did end with the gang.
    ((code == 127)) || status=$code
    ((signalled && code != 127)) || return 0
  done
}

wait_seconds=1
ended_with=""
while true; do
  started=$SECONDS
  "${launch[@]}" ${ended_with:+-x "MOE_LAUNCHER_LAST_EXIT=$ended_with"} "$@" &
  gang=$!
  status=127
  ((stopping == 0)) || kill -s TERM "$gang"
  await_gang
  gang=""
  ((stopping)) && exit "$status"
  case "$status" in
    69 | 70 | 71 | 75 | 76 | 86 | 137 | 139) ;;
    *) exit "$status" ;;
  esac
  ended_with=$status
  # A gang that ran for a while has not failed at once again.
  ((SECONDS - started < 60)) || wait_seconds=1
  echo "gang: ended with $status; starting again in $wait_seconds s" >&2
  sleep "$wait_seconds" &
  gang=$!
  await_gang
  gang=""
  ((stopping)) && exit 143
  wait_seconds=$((wait_seconds < 30 ? wait_seconds * 2 : 60))
done
