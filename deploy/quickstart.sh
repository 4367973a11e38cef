#!/usr/bin/env bash
# From a fresh machine to a trained mixture of experts: installs what is missing, builds, and runs the main job.
#
#   bash deploy/quickstart.sh                       the bundled model and data (about 20 minutes, most of it the first build)
#   bash deploy/quickstart.sh --config FILE.yaml    another pipeline
#   bash deploy/quickstart.sh --out DIR             results here (default runs/quickstart)
#   bash deploy/quickstart.sh --fresh               run finished stages again
#
# Run it again at any time: what is installed, built or finished is not done twice.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config="configs/base-7m_independent-random_cpu.yaml"
out="runs/quickstart"
ranks=2
extra=()
while (($#)); do
  case "$1" in
    --config) config="${2:?--config needs a file}"; shift 2 ;;
    --out) out="${2:?--out needs a folder}"; shift 2 ;;
    --ranks) ranks="${2:?--ranks needs a number}"; shift 2 ;;
    --fresh) extra+=(--fresh); shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'; try --help" >&2; exit 64 ;;
  esac
done

cd "$moe_root"
announce "1/3 dependencies"
bash deploy/install_deps.sh || give_up "installing dependencies failed; the reason is above"
announce "2/3 build (first time: several minutes on two cores)"
build_preset release moe-worker
announce "3/3 $config on $ranks ranks, results in $out"
bash deploy/gang.sh --ranks "$ranks" --threads 1 --once -- build/release/bin/moe-worker run "$config" --out "$out" "${extra[@]}" ||
  give_up "the pipeline did not finish; the reason is above. The same command goes on where it stopped"
announce "done"
