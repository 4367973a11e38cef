#!/usr/bin/env bash
# From a fresh machine to a trained mixture of experts: installs what is missing, builds, starts a coordinator and a gang of
# workers, and runs the main job through them.
#
#   bash deploy/quickstart.sh                       the bundled model and data (about 20 minutes, most of it the first build)
#   bash deploy/quickstart.sh --config FILE.yaml    another pipeline
#   bash deploy/quickstart.sh --out DIR             results here (default runs/quickstart)
#   bash deploy/quickstart.sh --set path=value      change a value of the file, for example stages.stage1.train.steps=50
#   bash deploy/quickstart.sh --ranks N             ranks of the gang (default 2), which the file must ask for (--set defaults.gang.ranks=N)
#   bash deploy/quickstart.sh --keep                leave coordinator and gang running at the end, and say how to stop them
#   bash deploy/quickstart.sh --standalone          without a coordinator: one mpirun runs the file
#   bash deploy/quickstart.sh --fresh               run finished stages again
#   bash deploy/quickstart.sh --device cuda         train and evaluate on GPUs, one a rank: two (docs/gpu.md)
#
# Run it again at any time: what is installed, built or finished is not done twice, and an interrupted job goes on.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config="configs/base-7m_independent-random_cpu.yaml"
out="runs/quickstart"
ranks=2
device=cpu
standalone=0
keep=0
fresh=0
assignments=()
while (($#)); do
  case "$1" in
    --config) config="${2:?--config needs a file}"; shift 2 ;;
    --out) out="${2:?--out needs a folder}"; shift 2 ;;
    --ranks) ranks="${2:?--ranks needs a number}"; shift 2 ;;
    --device) device="${2:?--device needs cpu or cuda}"; shift 2 ;;
    --set) assignments+=(--set "${2:?--set needs path=value}"); shift 2 ;;
    --keep) keep=1; shift ;;
    --standalone) standalone=1; shift ;;
    --fresh) fresh=1; shift ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'; try --help" >&2; exit 64 ;;
  esac
done

case "$device" in
  cpu) wanted=() preset=release ;;
  cuda) wanted=(--cuda) preset=cuda; assignments+=(--set defaults.gang.device=cuda) ;;
  *) echo "quickstart: --device is '$device'; expected cpu or cuda" >&2; exit 64 ;;
esac

cd "$moe_root"
bin="build/$preset/bin"
announce "1/4 dependencies"
bash deploy/install_deps.sh "${wanted[@]}" || give_up "installing dependencies failed; the reason is above"
announce "2/4 build (first time: several minutes on two cores)"
build_preset "$preset" moe-worker moe-coordinator moectl

if ((standalone)); then
  announce "3/4 $config on $ranks ranks, results in $out"
  extra=("${assignments[@]}")
  again="The same command"
  if ((fresh)); then
    extra+=(--fresh)
    again+=" without --fresh"
  fi
  bash deploy/gang.sh --ranks "$ranks" --threads 1 --once -- "$bin/moe-worker" run "$config" --out "$out" "${extra[@]}" ||
    give_up "the pipeline did not finish; the reason is above. $again goes on where it stopped"
  announce "4/4 done"
  exit 0
fi

announce "3/4 a coordinator and a gang of $ranks ranks, everything below $out"
mkdir -p "$out/logs"
coordinator_pid=""
gang_pid=""
stop_all() {
  # The gang first: it saves what runs and says goodbye.
  [[ -z "$gang_pid" ]] || { kill -USR1 "$gang_pid" 2>/dev/null && wait "$gang_pid" 2>/dev/null; } || true
  [[ -z "$coordinator_pid" ]] || { kill -TERM "$coordinator_pid" 2>/dev/null && wait "$coordinator_pid" 2>/dev/null; } || true
}
trap stop_all EXIT
trap 'exit 130' INT TERM

: >"$out/logs/coordinator.log"
"$bin/moe-coordinator" --data-root "$out" --store "$out/coordinator.db" --port 0 --http-port 0 2>"$out/logs/coordinator.log" &
coordinator_pid=$!
serving=""
for ((i = 0; i < 100; ++i)); do
  serving=$(grep -m 1 'event=serving' "$out/logs/coordinator.log" || true)
  [[ -z "$serving" ]] || break
  kill -0 "$coordinator_pid" 2>/dev/null || { cat "$out/logs/coordinator.log" >&2; give_up "the coordinator did not start; its words are above"; }
  sleep 0.1
done
[[ "$serving" =~ grpc=([^ ]+)\ http=([^ ]+) ]] || give_up "the coordinator does not say where it serves; see $out/logs/coordinator.log"
export MOE_COORDINATOR="${BASH_REMATCH[1]}"
page="${BASH_REMATCH[2]}"
bash deploy/gang.sh --ranks "$ranks" --threads 1 --once -- "$bin/moe-worker" serve --data-root "$out" --device "$device" 2>"$out/logs/gang.log" &
gang_pid=$!
echo "status page   $page"
echo "coordinator   MOE_COORDINATOR=$MOE_COORDINATOR"

announce "4/4 $config"
# The same file gets the same request id, so that running this script again finds the pipeline instead of starting another.
request="quickstart-$(cat "$config" <(printf '%s\n' "${assignments[@]}") | sha256sum | cut -c1-16)"
((fresh)) && request="$request-$(date +%s)"
status=0
# The names that a file may use are those of the connected gangs: wait for ours.
for ((i = 0; i < 100; ++i)); do
  "$bin/moectl" get gangs 2>/dev/null | grep -qw idle && break
  sleep 0.2
done
id=$("$bin/moectl" submit "$config" "${assignments[@]}" --request-id "$request" --wait) || status=$?
[[ -n "$id" ]] || give_up "the pipeline was not accepted; the reason is above"
sleep 1  # the summary is written after the last commit
curl -s --max-time 10 "$page" >"$out/status.html" || true
[[ ! -f "$out/$id/summary.txt" ]] || cat "$out/$id/summary.txt"
echo "status page, saved   $out/status.html"
if ((keep)); then
  trap - EXIT
  echo "still running: coordinator (pid $coordinator_pid), gang (pid $gang_pid). To stop them: kill -USR1 $gang_pid; sleep 5; kill $coordinator_pid"
fi
((status == 0)) || give_up "the pipeline did not succeed (moectl says why above); logs are in $out/logs. The same command goes on where it stopped.
A gate that holds is let pass while the coordinator runs (the same command with --keep): MOE_COORDINATOR=$MOE_COORDINATOR $bin/moectl approve $id --gate NAME"
announce "done"
