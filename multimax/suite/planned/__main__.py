"""Run what the plan asks for: python -m multimax.suite.planned --help"""

import argparse
import math
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from multimax import reweight
from multimax.suite.engine.provenance import revision
from multimax.suite.errors import Parser, UserError, one_line_errors, whole
from multimax.suite.mechanisms import PROBLEMS, VARIANTS, MechanismRuns
from multimax.suite.plan import CONFIRMING_FROM, PLAN, TUNING_FROM, Arm, Entry, read_plan
from multimax.suite.planned.exploratory import FOLDER, unplanned
from multimax.suite.planned.table import Runs, RunTable, read_table
from multimax.suite.plugins import import_plugins

PLANNED = Path("results/planned")
PLACES = ("data.root", "data.cache_dir")
"""Keys that say where data are on this machine; they change no numbers and are not recorded."""

MOST_SEEDS = 10_000


@one_line_errors
def main() -> None:
    parser = Parser(prog="python -m multimax.suite.planned", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="of each entry, how many of its runs are there and what runs the rest")
    status.set_defaults(do=show)
    confirming = commands.add_parser("confirm", help="the runs of an entry that are not there yet")
    confirming.set_defaults(do=confirm)
    exploring = commands.add_parser(
        "explore",
        help="an entry's runs with other seeds and rates, which confirm nothing but choose the rates; or a problem "
        f"that no entry plans: {', '.join(VARIANTS)}",
    )
    exploring.add_argument("--arms", metavar="A,B", type=words, help="default: all of the entry's")
    exploring.add_argument(
        "--rates", metavar="A,B", type=rates, help="learning rates; default: the entry's, or the best tried"
    )
    exploring.add_argument(
        "--seeds",
        metavar="FIRST-LAST",
        required=True,
        type=seeds,
        help=f"below {CONFIRMING_FROM} for a pilot, from {TUNING_FROM} on to choose rates on held-out training data",
    )
    exploring.set_defaults(do=explore)
    for command in (confirming, exploring):
        command.add_argument("entry", help="its name in the plan")
        command.add_argument(
            "--place",
            action="append",
            default=[],
            dest="places",
            metavar="KEY=PATH",
            help=f"where data are: {' or '.join(PLACES)}",
        )
        command.add_argument(
            "--jobs",
            type=whole(1, 64),
            default=1,
            metavar="N",
            help="processes, each of one thread; default: %(default)s",
        )
        command.add_argument(
            "--plugins", metavar="A,B", type=words, default=(), help="modules of your own, imported first"
        )
        command.add_argument("--config-dir", metavar="FOLDER", help="configurations of your own, as train.py takes it")
    for command in (status, confirming, exploring):
        command.add_argument("--plan", type=Path, default=PLAN, metavar="FILE")
        command.add_argument(
            "--to", type=Path, metavar="FOLDER", help=f"of the tables; default: {PLANNED}, or {FOLDER}"
        )
    given = parser.parse_args()
    import_plugins(getattr(given, "plugins", ()))
    given.do(given)


def show(given: argparse.Namespace) -> None:
    for name, entry in read_plan(given.plan).items():
        rows = read_table((given.to or PLANNED) / f"{name}.csv")
        there = sum(entry.confirms(row["plan"], row["revision"], int(row["seed"])) for row in rows)
        need = len(entry.rates) * len(entry.seeds)
        todo = f"; in a worktree at {entry.revision[:12]}: python -m multimax.suite.planned confirm {name}"
        if not entry.revision:
            todo = "; not ready: it names no revision"
        print(f"{name}: {there} of {need} runs{todo if there < need else ''}")


def confirm(given: argparse.Namespace) -> None:
    """Run the entry as planned, decisive arms first. Raises UserError if the code is not at the planned revision."""
    entry = find(given)
    if (code := revision()) != entry.revision:
        raise UserError(
            f"{entry.id} is planned for revision {entry.revision[:12] or 'none yet'}, and the code here is {code}: "
            f"git worktree add ../confirm {entry.revision[:12]}, and run this there with --plan and --to"
        )
    table = RunTable((given.to or PLANNED) / f"{entry.id}.csv", runs_of(entry, given), given.plugins)
    arms = [Arm(name, entry.rates[name]) for name in [*entry.decisive, *entry.rates]]
    for some in (arms[: len(entry.decisive)], arms[len(entry.decisive) :]):
        table.fill(some, entry.seeds, entry.digest, given.jobs)


def explore(given: argparse.Namespace) -> None:
    planned = given.entry in read_plan(given.plan) or given.entry not in VARIANTS
    path = (given.to or (PLANNED if planned else FOLDER)) / f"{given.entry}.csv"
    entry = find(given) if planned else unplanned(given.entry, read_table(path))
    if given.seeds[0] < TUNING_FROM and given.seeds[-1] >= CONFIRMING_FROM:
        raise UserError(f"--seeds: those from {CONFIRMING_FROM} to {TUNING_FROM - 1} confirm, and only by the plan")
    names = given.arms or list(entry.rates)
    for name in names:
        try:
            _ = name in entry.arms or reweight.get(name)
        except ValueError as error:
            raise UserError(f"--arms: {error}") from None
    if given.seeds[0] >= TUNING_FROM:
        entry = replace(entry, overrides=(*entry.overrides, *entry.tuning))
    arms = [Arm(name, rate) for name in names for rate in given.rates or [entry.rates.get(name, math.nan)]]
    if lacking := [arm.name for arm in arms if math.isnan(arm.rate)]:
        raise UserError(f"--rates: no learning rate for {', '.join(lacking)}; seeds from {TUNING_FROM} on try some")
    RunTable(path, runs_of(entry, given), given.plugins).fill(arms, given.seeds, "", given.jobs)


def find(given: argparse.Namespace) -> Entry:
    plan: Mapping[str, Entry] = read_plan(given.plan)
    if given.entry not in plan:
        raise UserError(f"the plan has no entry {given.entry!r}; it has: {', '.join(plan) or 'none'}")
    return plan[given.entry]


def runs_of(entry: Entry, given: argparse.Namespace) -> Runs:
    """How the entry's runs are made. Raises UserError for an unknown problem."""
    for place in given.places:
        key, equals, path = place.partition("=")
        if key not in PLACES:
            raise UserError(f"--place {place}: all but {' and '.join(PLACES)} is the plan's to say")
        if not equals or not path:
            raise UserError(f"--place {place}: give it as {key}=PATH")
        if entry.problem != "train":
            raise UserError(f"--place {place}: {entry.id} makes its own data, and reads none")
    if entry.problem == "train":
        from multimax.suite.planned.training import Trainings

        unfinished = (given.to or PLANNED) / "unfinished"
        return Trainings(entry.overrides, entry.arms, given.places, unfinished, given.plugins, given.config_dir)
    if entry.problem not in PROBLEMS:
        raise UserError(f"{entry.id}: there is no problem {entry.problem}; choose train or {', '.join(PROBLEMS)}")
    problem = PROBLEMS[entry.problem]
    if entry.variant not in problem.variants:
        raise UserError(f"{entry.id}: the variant must be one of {', '.join(problem.variants)} for {problem.name}")
    return MechanismRuns(problem, entry.variant)


def seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    found = range(int(first), int(last if dash else first) + 1)
    if not 0 < len(found) <= MOST_SEEDS or not 0 <= found[0] <= found[-1] < 2**63:
        raise ArgumentTypeError(f"{text} is not FIRST-LAST, of at most {MOST_SEEDS:,} seeds")
    return found


def words(text: str) -> Sequence[str]:
    return list(dict.fromkeys(text.split(",")))


def rates(text: str) -> list[float]:
    found = list(dict.fromkeys(float(rate) for rate in text.split(",")))
    if not all(0 < rate < math.inf for rate in found):
        raise ArgumentTypeError(f"{text}: learning rates are numbers above 0")
    return found


if __name__ == "__main__":
    main()
