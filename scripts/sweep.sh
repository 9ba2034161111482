#!/usr/bin/env bash
# The paper's sweep on Slurm: every task with every function and three seeds. See docs/cluster.md.
#   scripts/sweep.sh --dry-run         what it would submit, and what that would cost
#   scripts/sweep.sh                   submit it; runs that are finished are left out
#   scripts/sweep.sh launcher=local    on this machine, one run after the other
# Each part of it can be another: scripts/sweep.sh scale=small task=lm seed=0 hydra.launcher.partition=gpu [KEY=VALUE]...
# The data are where IMAGENET, WIKITEXT103 and IWSLT14 in the environment say.
set -euo pipefail
python="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/python"
test -x "$python" || python=python
declare -A sweep=(
  [launcher]=slurm
  [scale]=paper
  [task]=deit,lm,mt
  [reweight]=softmax,sparsemax,entmax15,evsoftmax,multimax
  [seed]=0,1,2
)
others=()
for argument; do
  key="${argument%%=*}"
  case "$argument" in
    --dry-run) others+=(hydra.launcher.dry_run=true) ;;
    -*) echo "error: $argument: it takes --dry-run and KEY=VALUE" >&2; exit 2 ;;
    *) if [[ -v "sweep[$key]" ]]; then sweep[$key]="${argument#*=}"; else others+=("$argument"); fi ;;
  esac
done
chosen=()
for key in scale task reweight seed; do chosen+=("$key=${sweep[$key]}"); done
exec "$python" "$(dirname "$0")/../train.py" -m hydra/launcher="${sweep[launcher]}" "${chosen[@]}" "${others[@]}"
