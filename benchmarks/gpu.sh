#!/usr/bin/env bash
# What only a GPU can tell, in under eight minutes: are the kernels right there, and how fast are they?
#
#     benchmarks/gpu.sh [python]
#
# Needs torch with Triton and this package; what else is missing is said and left out. Tables land in results/benchmarks,
# all rows and the aims are printed at the end. The tests of the kernels come first and get two minutes.
set -u
cd "$(dirname "$0")/.."
python=${1:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
started=$SECONDS
"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
  { echo "error: $python sees no CUDA device: run this where torch.cuda.is_available()" >&2; exit 1; }
failed=()
if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
  timeout 120 "$python" -m pytest -q -p no:cacheprovider -m gpu tests/kernels || failed+=("the tests of the kernels")
else
  echo "the tests of the kernels are left out: they need pytest and hypothesis"
fi
"$python" -m benchmarks --device cuda || failed+=(benchmarks)
echo "$((SECONDS - started)) s"
[ ${#failed[@]} -eq 0 ] || { printf 'error: failed: %s\n' "${failed[@]}" >&2; exit 1; }
