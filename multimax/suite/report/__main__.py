"""python -m multimax.suite.report [tables | theory | page | wanted [CLAIMS] | record RUN... | pack RUN... | ...]"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from multimax.suite.errors import Parser, UserError, install, one_line_errors, whole
from multimax.suite.files import alone
from multimax.suite.report.pack import LEFT_OUT, pack
from multimax.suite.report.push_wandb import push_wandb
from multimax.suite.report.records import record, require_finished
from multimax.suite.runs import Run

CLONE = Path(__file__).parents[3] / "results"


@one_line_errors
def main() -> None:
    parser = Parser(
        prog="python -m multimax.suite.report",
        description="Make every table, every figure and the page in the results from the runs that are recorded there.",
    )
    results = Path("results")
    if not results.is_dir() and (CLONE / "claims.yaml").is_file():
        results = CLONE
    parser.add_argument("--results", type=Path, default=results, help="default: results here, else those of the clone")
    commands = parser.add_subparsers(dest="command")
    recording = commands.add_parser("record", help="copy the records of finished runs to results/runs first")
    packing = commands.add_parser("pack", help="one file with the records of finished runs, to send to somebody else")
    packing.add_argument("--to", type=Path, required=True, metavar="FILE")
    packing.add_argument("--from", dest="name", metavar="NAME", help="who you are; default: nobody is named")
    merging = commands.add_parser("merge", help="check a file that somebody packed and add its runs to results/runs")
    merging.add_argument("file", type=Path)
    merging.add_argument("--exploratory", action="store_true", help="also runs that no claim and no plan asks for")
    wanting = commands.add_parser("wanted", help="arguments of train.py for the runs that test the claims, a line each")
    wanting.add_argument(
        "claims", nargs="?", default="*", help="names in claims.yaml, as in 'imagenet-*'; default: all"
    )
    commands.add_parser("tables", help="the tables alone")
    commands.add_parser("theory", help="results/theory alone, and the tables of docs/theory.md")
    commands.add_parser("page", help="index.html alone, from the runs, and the tables and figures as they are")
    serving = commands.add_parser("serve", help="a page that compares run folders, finished or not, on this machine")
    serving.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders that hold some")
    serving.add_argument("--port", type=whole(0, 65535), default=8000, help="0 takes any that is free (default: 8000)")
    pushing = commands.add_parser("push-wandb", help="bring W&B up to runs that were trained without it")
    for command in (recording, packing, pushing):
        command.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    arguments = parser.parse_args()
    if arguments.command == "push-wandb":
        push_wandb(arguments.runs)
        return
    if arguments.command == "pack":
        pack(arguments.runs, arguments.to, arguments.name)
        print(f"{arguments.to}: {arguments.to.stat().st_size} bytes; left out: {LEFT_OUT}")
        return
    try:
        from multimax.suite.report.claims import read_claims, wanted

        if arguments.command == "wanted":
            for overrides in wanted(read_claims(arguments.results / "claims.yaml"), arguments.claims):
                print(*overrides)
            return
        from multimax.suite.report.merge import merge
        from multimax.suite.report.outputs import Output, save
        from multimax.suite.report.page.results_page import results_page
        from multimax.suite.report.page.serve import serve
        from multimax.suite.report.readme import update_readme
        from multimax.suite.report.results import all_figures, all_tables
        from multimax.suite.report.theory import theory, update_theory
    except ModuleNotFoundError as error:
        raise UserError(f"tables and figures need the package {error.name}: {install('report')}") from None
    if arguments.command == "serve":
        serve(arguments.runs, arguments.port)
        return
    everything = [all_tables, all_figures, results_page]
    # The counts of theory depend on no records.
    parts: Mapping[str | None, Sequence[Callable[[Path], Iterator[Output]]]] = {
        "tables": [all_tables],
        "theory": [theory],
        "page": [results_page],
        None: [theory, *everything],
    }
    with alone(arguments.results):  # else the tables of a report that began earlier would lack another's new record
        if arguments.command == "merge":
            for path, of in merge(arguments.file, arguments.results, arguments.exploratory):
                print(f"merged {path}: {of}")
            return
        if arguments.command == "record":
            for run in arguments.runs:
                require_finished(Run(run))
            for run in arguments.runs:
                print(f"recorded {record(Run(run), arguments.results / 'runs')}")
        for make in parts.get(arguments.command, everything):
            for output in make(arguments.results):
                for path in save(output, arguments.results):
                    print(path)
        update_readme(arguments.results)
        update_theory(arguments.results)


if __name__ == "__main__":
    main()
