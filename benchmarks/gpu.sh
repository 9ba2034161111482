#!/usr/bin/env bash
# What only a GPU can tell, in under eight minutes: are the kernels right there, and how fast are they?
#
#     [PYTHON=python3] benchmarks/gpu.sh [options of python -m benchmarks]
#
# Needs torch with Triton, and this package. Anything else that is missing is reported and left
# out. The tests of the kernels come first and get a hundred seconds. Tables go to
# results/benchmarks; all rows and the aims are printed at the end. Without a GPU, --device cpu
# --quick tries it out, without the tests.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
failed=()
if [[ " $* " != *" --device cpu "* ]]; then
  set -- --device cuda "$@"
  "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
    { echo "error: $python sees no CUDA device: run this where torch.cuda.is_available()" >&2; exit 1; }
  if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
    at_once=$("$python" -c 'import xdist' 2>/dev/null && echo --numprocesses=8)
    timeout 100 "$python" -m pytest -q -p no:cacheprovider $at_once -m gpu tests/kernels tests/test_output_layer.py ||
      failed+=("the tests of the kernels")
  else
    echo "the tests of the kernels are left out: they need pytest and hypothesis"
  fi
fi
"$python" -m benchmarks "$@" || failed+=(benchmarks)
echo "$SECONDS s"
[ ${#failed[@]} -eq 0 ] || { printf 'error: failed: %s\n' "${failed[@]}" >&2; exit 1; }
