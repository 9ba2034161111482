#!/usr/bin/env bash
# The paper's sweep: exactly the runs that results/claims.yaml asks for. See docs/cluster.md.
#   scripts/sweep.sh --dry-run               what it would submit to Slurm, and what that would cost
#   scripts/sweep.sh                         submit it; runs that are finished are left out
#   scripts/sweep.sh launcher=local          on this machine, one run after the other
#   scripts/sweep.sh claims='imagenet-*'     the runs of some claims
# KEY=VALUE goes to every run, as in seed=0 or hydra.launcher.partition=gpu. The data are where IMAGENET, WIKITEXT103 and
# IWSLT14 in the environment say. The runs of results/plan.yaml are started by python -m multimax.suite.planned.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="$root/.venv/bin/python"
test -x "$python" || python=python
launcher=slurm claims='*' others=()
for argument; do
  case "$argument" in
    --dry-run) others+=(hydra.launcher.dry_run=true) ;;
    launcher=*) launcher="${argument#*=}" ;;
    claims=*) claims="${argument#*=}" ;;
    *=*) others+=("$argument") ;;
    *) echo "error: $argument: it takes --dry-run and KEY=VALUE" >&2; exit 2 ;;
  esac
done
wanted="$("$python" -m multimax.suite.report --results "$root/results" wanted "$claims")"
while read -r -a run; do
  arguments=()
  for argument in "${run[@]}"; do # what is said twice is what the command line says
    [[ " ${others[*]}" == *" ${argument%%=*}="* ]] || arguments+=("$argument")
  done
  "$python" "$root/train.py" -m hydra/launcher="$launcher" "${arguments[@]}" "${others[@]}" < /dev/null
done <<< "$wanted"
