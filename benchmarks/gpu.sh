#!/bin/sh
# Everything that needs a GPU, in under 9 minutes: build, tests, sanitizers, benchmarks. No network is used.
#   benchmarks/gpu.sh OUTDIR
# OUTDIR receives a log of each stage, gpu_attack.json, gpu_distance.json and Markdown tables. A stage that fails is reported at
# the end and does not stop the next ones, except for the build. Needs a C++ compiler, nvcc and $PYTHON (python3)
# with torch, setuptools and numpy; without triton, pytest or compute-sanitizer their stages are left out, and
# it says so.
set -u
OUT=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUTDIR}" && cd "$1" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
SECONDS_IN_ALL=520
BEGIN=$(date +%s)
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
status=0

# The results name the commit of this checkout; what follows runs from a copy, which has none.
SAPAG_FAST_COMMIT=$(git -c safe.directory="$PWD" describe --always --dirty 2>/dev/null || echo unknown)
export SAPAG_FAST_COMMIT

missing() {
  echo "missing: $1"
  status=1
}

has() {
  "$PYTHON" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"
}

# stage NAME SECONDS COMMAND...: at most so many seconds, and none beyond those for all stages.
stage() {
  name=$1
  left=$((SECONDS_IN_ALL - $(date +%s) + BEGIN))
  limit=$(($2 < left ? $2 : left))
  shift 2
  if [ "$limit" -le 0 ]; then
    echo "$name: FAILED (no time left)"
  elif timeout "$limit" "$@" >"$OUT/$name.log" 2>&1; then
    echo "$name: passed"
    return 0
  else
    echo "$name: FAILED (status $?, see $name.log; 124: more than $limit s)"
  fi
  status=1
  return 1
}

command -v "$PYTHON" >/dev/null || {
  missing "$PYTHON"
  exit 1
}
for module in torch setuptools numpy; do
  has "$module" || missing "the Python package $module, without which nothing runs"
done
[ "$status" = 0 ] || exit 1
command -v "${CXX:-c++}" >/dev/null || {
  missing "a C++ compiler"
  exit 1
}
command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" >/dev/null || command -v nvcc >/dev/null ||
  missing "nvcc: no CUDA kernels are built"
has triton || missing "the Python package triton: its kernels are left out"
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || missing "a GPU that torch can use"

{
  echo "commit $SAPAG_FAST_COMMIT"
  nvidia-smi
  nvcc --version
  "$PYTHON" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda)'
  "$PYTHON" -c 'import triton; print("triton", triton.__version__)'
} >"$OUT/machine.log" 2>&1

# Built for this GPU alone, from a copy: the checkout stays as it is. setup.py without pyproject.toml asks for no
# particular setuptools, and for neither pip nor a network.
if [ -z "${SAPAG_FAST_CUDA_ARCH:-}" ]; then
  SAPAG_FAST_CUDA_ARCH=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' 2>/dev/null)
  export SAPAG_FAST_CUDA_ARCH
fi
mkdir "$SITE/source" "$SITE/tree"
cp -r setup.py csrc kernels sapag_fast "$SITE/source/"
rm -f "$SITE"/source/sapag_fast/*.so
cp -r benchmarks tests pyproject.toml "$SITE/tree/"
cd "$SITE/source" || exit 1
stage build 180 "$PYTHON" setup.py --quiet build --build-lib "$SITE/built" || exit 1
export PYTHONPATH="$SITE/built:$SITE/tree"
cd "$SITE/tree" || exit 1
"$PYTHON" -c 'import sapag_fast' >>"$OUT/build.log" 2>&1 || {
  echo "sapag_fast: cannot be imported, see build.log"
  exit 1
}

if has pytest; then
  stage tests 100 "$PYTHON" -m pytest -q -p no:cacheprovider tests/csrc/test_gpu.py
else
  missing "the Python package pytest: the GPU tests are left out"
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck; do
    stage "$tool" 50 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$PYTHON" -m benchmarks.kernels.gpu_small_cases
  done
else
  missing "compute-sanitizer: its three stages are left out"
fi
# Both write their results row by row; the last one takes whatever time is left.
stage attack 110 "$PYTHON" -m benchmarks.search.gpu_attack --rounds 2 --evaluations 40 --output "$OUT/gpu_attack.json"
stage distance "$SECONDS_IN_ALL" "$PYTHON" -m benchmarks.kernels.gpu_distance --output "$OUT/gpu_distance.json"
exit "$status"
