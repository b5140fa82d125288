#!/bin/sh
# Everything that needs a GPU, in under 9 minutes: build, tests, sanitizers, benchmarks. No network is used.
#   benchmarks/gpu.sh OUTDIR
# OUTDIR receives a log of each stage, gpu_distance.json and a Markdown table. A stage that fails is reported at
# the end and does not stop the next ones, except for the build.
set -u
OUT=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
status=0

stage() {
  name=$1
  shift
  if timeout "$LIMIT" "$@" >"$OUT/$name.log" 2>&1; then
    echo "$name: passed"
  else
    echo "$name: FAILED (status $?, see $name.log)"
    status=1
  fi
}

{
  nvidia-smi
  nvcc --version
  "$PYTHON" -c 'import sys, torch, triton; print(sys.version, torch.__version__, triton.__version__)'
} >"$OUT/machine.log" 2>&1

# Installed outside of the source tree, whose sapag_fast folder has no compiled module.
LIMIT=150 stage build "$PYTHON" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$SITE" .
[ "$status" = 0 ] || exit 1
mkdir -p "$SITE/tree" && cp -r benchmarks tests pyproject.toml "$SITE/tree/"
export PYTHONPATH="$SITE:$SITE/tree"
cd "$SITE/tree"

LIMIT=120 stage tests "$PYTHON" -m pytest -q tests/test_gpu.py
for tool in memcheck racecheck synccheck; do
  LIMIT=60 stage "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$PYTHON" -m benchmarks.gpu_small_cases
done
LIMIT=240 stage distance "$PYTHON" -m benchmarks.gpu_distance --output "$OUT/gpu_distance.json"
exit "$status"
