#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the meter's checks, ten repeated runs of one experiment, the experiment set.
#   benchmarks/gpu/run_all.sh [FOLDER [STEP...]]
# Results go to FOLDER, by default benchmarks/results/<board>. Steps: doctor, meter, repeated, set; all by default. One
# that fails does not stop the others. Uses the python3 in front of PATH, or $PYTHON; the packages may be installed, or
# lie in a folder on PYTHONPATH.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
python="${PYTHON:-python3}"
# This checkout, also for scripts in folders of their own.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
out="${1:-}"
if [ -z "$out" ]; then
  board="$("$python" - <<'EOF'
import re
from pytest_llem.machine import boards

found = boards()
if not found:
    raise SystemExit("NVML shows no GPU: see nvidia-smi")
print(re.sub(r"\W+", "-", found[0]["name"]).strip("-"))
EOF
  )" || exit 1
  out="benchmarks/results/$board"
fi
mkdir -p "$out" || exit 1
steps=" ${*:2} "
failed=0

# Without an installed pytest-llem nothing tells pytest of the plugin.
pytest=("$python" -m pytest)
"$python" - <<'EOF' || pytest+=(-p pytest_llem.plugin)
from importlib.metadata import entry_points

raise SystemExit("llem" not in entry_points(group="pytest11").names)
EOF

step() {
  [[ $steps == "  " || $steps == *" $1 "* ]] || return 0
  echo "== $2"
  shift 2
  "$@" || { echo "== failed with $?: $*"; failed=1; }
}

versions() {
  date -u +%Y-%m-%dT%H:%M:%SZ
  "$python" - <<'EOF'
import sys
from importlib.metadata import distributions

print(f"python {sys.version.split()[0]}")
wanted = ("torch", "transformers", "accelerate", "bitsandbytes", "flash-attn", "nvidia-ml-py", "pytest", "zeus")
found = {one.metadata["Name"].lower(): one.version for one in distributions()}
print(*(f"{name} {found[name]}" for name in sorted(found) if name.startswith(wanted)), sep="\n")
EOF
  git rev-parse HEAD 2>/dev/null
  nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm --format=csv
}

versions >"$out/versions.txt" 2>&1

step doctor "what can be measured here" "${pytest[@]}" --llem-doctor
step meter "windows of several lengths, beside Zeus" \
  "$python" benchmarks/gpu/meter_check.py --out "$out/meter_check.json"
for n in 1 2 3 4 5 6 7 8 9 10; do
  step repeated "run $n of 10 of one experiment" "${pytest[@]}" benchmarks/gpu/qwen-0.5b.llem.yaml -k 'batch_size:8' --llem-gpu \
    --llem-rounds 5 -q --benchmark-storage="$out/repeated" --benchmark-save=repeated
done
step set "the experiment set" "${pytest[@]}" benchmarks/ --llem-gpu -rs --benchmark-json="$out/benchmarks.json" --durations=10
exit "$failed"
