"""Train models on the small problems: python -m multimax.suite.mechanisms --help"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from multimax import reweight
from multimax.suite.errors import Parser, UserError, one_line_errors
from multimax.suite.mechanisms import PROBLEMS
from multimax.suite.mechanisms.problem import Arm
from multimax.suite.mechanisms.table import RunTable, confirm
from multimax.suite.plan import PLAN, Comparison, read_plan


@one_line_errors
def main() -> None:
    parser = Parser(prog="python -m multimax.suite.mechanisms", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    planned = commands.add_parser("confirm", help="the runs of a comparison of the plan that are not in its table yet")
    planned.add_argument("comparison", help="a name in the plan")
    planned.add_argument("--plan", type=Path, default=PLAN, metavar="FILE")
    planned.set_defaults(do=lambda given: confirm(find(read_plan(given.plan), given.comparison), given.to, given.jobs))
    free = commands.add_parser(
        "explore", help="runs outside of the plan: they are exploratory, or choose a learning rate"
    )
    free.add_argument("problem", choices=sorted(PROBLEMS))
    free.add_argument(
        "--functions", default="softmax,multimax", type=functions, metavar="A,B", help="default: %(default)s"
    )
    free.add_argument("--variant", default="", help="of the model, where the problem has several")
    free.add_argument("--rates", default="0.01", type=rates, metavar="A,B", help="learning rates; default: %(default)s")
    free.add_argument("--seeds", default="0-4", type=seeds, metavar="FIRST-LAST", help="default: %(default)s")
    free.set_defaults(do=explore)
    for command in (planned, free):
        command.add_argument("--to", type=Path, default=Path("results/mechanisms"), metavar="FOLDER")
        command.add_argument(
            "--jobs",
            type=int,
            default=1,
            choices=range(1, 65),
            metavar="N",
            help="processes, each of one thread; default: %(default)s",
        )
    given = parser.parse_args()
    given.do(given)


def find(plan: Mapping[str, Comparison], name: str) -> Comparison:
    if name not in plan:
        raise UserError(f"the plan has no comparison {name!r}; it has: {', '.join(plan) or 'none'}")
    return plan[name]


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def functions(text: str) -> list[str]:
    try:
        for name in text.split(","):
            reweight.get(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text.split(",")


def rates(text: str) -> list[float]:
    return [float(rate) for rate in text.split(",")]


def explore(given: argparse.Namespace) -> None:
    problem = PROBLEMS[given.problem]
    if given.variant not in problem.variants:
        raise UserError(f"--variant must be one of {', '.join(problem.variants)} for {problem.name}")
    arms = [Arm({"name": function}, given.variant, rate) for function in given.functions for rate in given.rates]
    RunTable(given.to / f"{problem.name}.csv", problem).fill(arms, given.seeds, "", given.jobs)


if __name__ == "__main__":
    main()
