#!/usr/bin/env bash
# What a GPU can tell in a quarter of an hour, the most telling first.
#   benchmarks/gpu/run_all.sh [FOLDER [STEP...]]
# Results go to FOLDER, by default benchmarks/results/<board>, as at most ten files. Steps, all by default:
#   decoding   decoding.json      ten ways to decode with one model, and how much of the time is measured
#   joined     joined.json        joined windows: their joules, and what they cost the work in them
#   linearity  linearity.json     windows of several lengths, beside Zeus
#   record     recording.json.gz  what the board's sensors show around known work
#   pairs      pairs.json         pairs of two revisions, with equal work and with 5% more
#   options    options.json       8 bit, 4 bit, device_map, TF32, 8B
#   repeated   repeated.json      eight processes of one experiment: a list of what pytest-benchmark writes
#   doctor                        what can be measured here
# with versions.json and, of all of them, log.txt. Each step has a limit; one that fails or passes it does not stop the
# others, is named at the end, and leaves the exit status 1. Uses the python3 in front of PATH, or $PYTHON; the packages
# may be installed, or lie in a folder on PYTHONPATH. All experiments: pytest benchmarks/gpu --llem-gpu.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
python="${PYTHON:-python3}"
# This checkout, also for scripts in folders of their own.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
steps=(decoding joined linearity pairs options record repeated doctor)
wanted=("${@:2}")
for name in "${wanted[@]}"; do
  [[ " ${steps[*]} " == *" $name "* ]] || { echo "no step $name; steps: ${steps[*]}" >&2; exit 2; }
done
((${#wanted[@]})) || wanted=("${steps[@]}")
out="${1:-}"
if [ -z "$out" ]; then
  board="$("$python" - <<'EOF'
import re
from pytest_llem.records.machine import boards

found = boards()
if not found:
    raise SystemExit("NVML shows no GPU: see nvidia-smi")
print(re.sub(r"\W+", "-", found[0]["name"]).strip("-"))
EOF
  )" || exit 1
  out="benchmarks/results/$board"
fi
mkdir -p "$out" || exit 1

# Without an installed pytest-llem nothing tells pytest of the plugin.
pytest=("$python" -m pytest)
"$python" - <<'EOF' || pytest+=(-p pytest_llem.plugin)
from importlib.metadata import entry_points

raise SystemExit("llem" not in entry_points(group="pytest11").names)
EOF

versions() {
  "$python" - "$(git rev-parse HEAD 2>/dev/null)" <<'EOF'
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pytest_llem.records.machine import boards

wanted = ("torch", "transformers", "accelerate", "bitsandbytes", "flash-attn", "nvidia-ml-py", "pytest", "zeus")
found: dict[str, str] = {}
for one in distributions():
    found.setdefault((one.metadata["Name"] or "").lower(), one.version)  # the first is the one that is imported
versions = {
    "date": datetime.now(UTC).isoformat(timespec="seconds"),
    "commit": sys.argv[1] or None,
    "python": sys.version.split()[0],
    "packages": {name: found[name] for name in sorted(found) if name.startswith(wanted)},
    "boards": boards(),
}
print(json.dumps(versions, indent=1))
EOF
}

# In the foreground the signal goes to the command alone and once: pytest saves what is finished.
limited() { timeout --foreground --kill-after=10 "$@"; }

repeated() { # LIMIT_S
  local until=$((SECONDS + $1)) parts left n status=0
  parts="$(mktemp -d)" || return 1
  for n in 1 2 3 4 5 6 7 8; do
    left=$((until - SECONDS))
    ((left > 0)) || { status=124; break; }
    echo "run $n of 8"
    limited "$left" "${pytest[@]}" benchmarks/gpu/qwen-0.5b.llem.yaml -k 'batch_size:64' --llem-gpu -q \
      --llem-rounds 3 --llem-min-window 0.5 --benchmark-json="$parts/$n.json" || status=$?
  done
  "$python" - "$parts" "$out/repeated.json" <<'EOF' || status=1
import json
import sys
from pathlib import Path

# pytest-benchmark leaves an empty file where nothing was measured.
runs = [json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json")) if path.stat().st_size]
Path(sys.argv[2]).write_text(json.dumps(runs))
print(f"{len(runs)} runs")
raise SystemExit(not runs)
EOF
  rm -r "$parts"
  return "$status"
}

failed=()
step() { # NAME COMMAND...
  [[ " ${wanted[*]} " == *" $1 "* ]] || return 0
  local name=$1 start=$SECONDS status
  echo "== $name"
  shift
  "$@"
  status=$?
  echo "== $name took $((SECONDS - start)) s"
  case $status in
    0) ;;
    124 | 137) failed+=("$name (out of time)") ;;
    *) failed+=("$name (exit status $status)") ;;
  esac
}

all_steps() {
  step decoding limited 240 "${pytest[@]}" benchmarks/gpu/decoding.llem.yaml --llem-gpu -rs \
    --benchmark-json="$out/decoding.json"
  step joined limited 140 "$python" benchmarks/gpu/joined_windows.py --out "$out/joined.json"
  step linearity limited 110 "$python" benchmarks/gpu/linearity.py --out "$out/linearity.json"
  step pairs limited 125 "$python" benchmarks/gpu/planted_pairs.py --out "$out/pairs.json"
  step options limited 190 "${pytest[@]}" benchmarks/gpu/options.llem.yaml --llem-gpu -rs \
    --benchmark-json="$out/options.json"
  step record limited 80 "$python" benchmarks/gpu/record.py --out "$out/recording.json.gz"
  step repeated repeated 130
  step doctor limited 40 "${pytest[@]}" --llem-doctor
  ((${#failed[@]} == 0)) && return
  printf '== failed: %s\n' "${failed[@]}"
  return 1
}

versions >"$out/versions.json"
all_steps 2>&1 | tee -a "$out/log.txt"
exit "${PIPESTATUS[0]}"
