"""The paper's sweep: exactly the runs that results/claims.yaml asks for. See docs/cluster.md.

    python scripts/sweep.py --dry-run               # what it would submit to Slurm, and what that would cost
    python scripts/sweep.py                         # submit it; runs that are finished are left out
    python scripts/sweep.py launcher=local          # on this machine, one run after the other
    python scripts/sweep.py claims='imagenet-*'     # the runs of some claims

KEY=VALUE goes to every run, as in seed=0 or hydra.launcher.partition=gpu. The environment variables IMAGENET,
WIKITEXT103 and IWSLT14 say where the data are. The runs of results/plan.yaml are started
by python -m multimax.suite.planned.
"""

import sys
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from multimax.suite import sweep
from multimax.suite.composition import compose_configuration, readable_overrides
from multimax.suite.engine.console import say
from multimax.suite.errors import UserError, one_line_errors
from multimax.suite.overrides import parse
from multimax.suite.report.claims import read_claims, wanted

CLAIMS = Path(__file__).parents[1] / "results" / "claims.yaml"


@one_line_errors
def main() -> None:
    chosen, others = {"launcher": "slurm", "claims": "*"}, []
    for argument in sys.argv[1:]:
        key, equals, value = argument.partition("=")
        if argument == "--dry-run":
            others.append("hydra.launcher.dry_run=true")
        elif not equals:
            raise UserError(f"{argument}: it takes --dry-run and KEY=VALUE")
        elif key in chosen:
            chosen[key] = value
        else:
            others.append(argument)
    say("composing and checking the configurations, which takes about a minute")
    runs = []
    for line in wanted(read_claims(CLAIMS), chosen["claims"]):
        parsed = [parse(override) for override in readable_overrides([*line, *others], sweep=True)]
        (combinations,) = BasicSweeper.split_arguments(parsed, None)  # if a key is given twice, its last value counts
        for overrides in combinations:
            composed = compose_configuration([f"hydra/launcher={chosen['launcher']}", *overrides], with_hydra=True)
            own = [override for override in overrides if not override.startswith("hydra")]
            runs.append(sweep.member(composed, own, " ".join(own)))
    is_local = runs[0].launcher["_target_"].endswith("LocalLauncher")
    sweep.launch("local" if is_local else "slurm", runs)


if __name__ == "__main__":
    main()
