#!/usr/bin/env bash
# Starts a gang: one mpirun with the settings that ranks on shared cores need.
#
#   bash deploy/gang.sh --ranks 2 --once -- build/release/bin/moe-worker run pipeline.yaml
#   bash deploy/gang.sh --ranks 4 --threads 2 -- build/release/bin/moe-worker run pipeline.yaml --out runs/a
#
#   --ranks N     ranks to start (default 1)
#   --threads T   threads of each rank (default 1)
#   --once        run once and pass the exit code on; without it, a gang that ended for a reason that may pass (exit codes 70
#                 internal, 71 hardware, 75 released, 76 fenced, 86 hang, or killed) is started again after a short wait
#
# SIGUSR1 to this script or to mpirun asks the gang to save a checkpoint and leave with 75.
set -euo pipefail

ranks=1
threads=1
once=0
while (($#)); do
  case "$1" in
    --ranks) ranks="${2:?--ranks needs a number}"; shift 2 ;;
    --threads) threads="${2:?--threads needs a number}"; shift 2 ;;
    --once) once=1; shift ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --) shift; break ;;
    *) echo "gang: unknown argument '$1'; try --help" >&2; exit 64 ;;
  esac
done
(($#)) || { echo "gang: no program given; put it behind --" >&2; exit 64; }
command -v mpirun >/dev/null || { echo "gang: mpirun is missing; run: bash deploy/install_deps.sh" >&2; exit 69; }

launch=(mpirun --oversubscribe --bind-to none --quiet -n "$ranks"
  --mca btl_vader_single_copy_mechanism none  # the kernel may forbid it in containers
  --mca orte_abort_print_stack 0
  -x "OMP_NUM_THREADS=$threads" -x "MKL_NUM_THREADS=$threads" -x MKL_DYNAMIC=FALSE -x OMP_WAIT_POLICY=PASSIVE)
(($(id -u) != 0)) || launch+=(--allow-run-as-root)

((once)) && exec "${launch[@]}" "$@"

wait_seconds=1
while true; do
  "${launch[@]}" "$@" &
  gang=$!
  trap 'kill -USR1 "$gang" 2>/dev/null' USR1
  trap 'kill -TERM "$gang" 2>/dev/null' TERM INT
  status=0
  wait "$gang" || status=$?
  # A signal ends `wait` early: wait for the gang itself.
  while kill -0 "$gang" 2>/dev/null; do
    status=0
    wait "$gang" || status=$?
  done
  case "$status" in
    70 | 71 | 75 | 76 | 86 | 137 | 139) echo "gang: ended with $status; starting again in $wait_seconds s" >&2 ;;
    *) exit "$status" ;;
  esac
  sleep "$wait_seconds"
  wait_seconds=$((wait_seconds < 60 ? wait_seconds * 2 : 60))
done
