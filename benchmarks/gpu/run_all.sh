#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the experiment set, the meter's checks, and ten repeated runs of one experiment.
#   benchmarks/gpu/run_all.sh [FOLDER]
# Results go to FOLDER, by default benchmarks/results/<board>. Uses the python3 in front of PATH, or $PYTHON.
set -uo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
board="$("$python" -c 'from pytest_llem.machine import boards; print(boards()[0]["name"].replace(" ", "-"))')" || exit 1
out="${1:-benchmarks/results/$board}"
mkdir -p "$out"
failed=0

step() {
  echo "== $1"
  shift
  "$@" || { echo "== failed with $?: $*"; failed=1; }
}

"$python" -m pytest --version >"$out/versions.txt" 2>&1
"$python" -m pip list --format=freeze 2>/dev/null | grep -iE '^(torch|transformers|accelerate|bitsandbytes|flash|nvidia-ml-py|pytest|zeus)' >>"$out/versions.txt"
date -u +%Y-%m-%dT%H:%M:%SZ >>"$out/versions.txt"
nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm --format=csv >>"$out/versions.txt" 2>&1

step "meter: windows of several lengths, beside Zeus" "$python" benchmarks/gpu/meter_check.py --out "$out/meter_check.json"
step "ten runs of one experiment" bash -c "
  for n in 1 2 3 4 5 6 7 8 9 10; do
    '$python' -m pytest benchmarks/gpu/qwen-0.5b.llem.yaml -k 'batch_size:8' --llem-gpu --llem-rounds 5 -q \
      --benchmark-storage='$out/repeated' --benchmark-save=repeated || exit 1
  done"
step "the experiment set" "$python" -m pytest benchmarks/ --llem-gpu -rs --benchmark-json="$out/benchmarks.json" --durations=10
exit "$failed"
