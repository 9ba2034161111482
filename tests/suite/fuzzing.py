"""Mutations of valid command lines, run folders, results and data, each run in its own process.

``prepare(folder)`` makes the valid ones and ``draw(folder, seed, scratch)`` runs a mutation of one
of them. Each process is forked from a server that has imported everything, so that a draw takes a
second.
"""

import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from pathlib import Path
from types import MappingProxyType

import datasets
import torch
import yaml
from mutations import damage, mangle
from PIL import Image
from plan_entry import ENTRY

from multimax.suite import cli
from multimax.suite.config import flatten, skeleton
from multimax.suite.data import iwslt14
from multimax.suite.engine import diagnose
from multimax.suite.figures.__main__ import main as figures
from multimax.suite.planned.__main__ import main as planned
from multimax.suite.planned.table import text
from multimax.suite.report.__main__ import main as report
from multimax.suite.report.records import record
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module

ROOT = Path(__file__).parents[2]

COMMANDS: dict[str, Callable[[], None]] = {
    "train.py": cli.train,
    "evaluate.py": cli.evaluate,
    "generate.py": cli.generate,
    "figures": figures,
    "report": report,
    "planned": planned,
    "diagnose": diagnose.main,
    "prepare_iwslt14.py": iwslt14.main,
}
SECONDS = 20  # CPU time after which a draw that trains gets Ctrl-C: training for long is no fault
OTHERS_SECONDS = 90  # for other draws: a report with all figures takes 20 on a slow machine
TRAINS = ("train.py", "planned", "diagnose")
PATIENCE = 180  # clock seconds after which even an idle draw gets Ctrl-C: hanging is a fault
MEMORY = 6 << 30  # bytes of address space

TINY = ["training.epochs=null", "training.steps=2", "training.log_every=1", "training.device=cpu"]
TASKS = {
    "deit": [
        *("task=deit", "data=imagenette", "scale=small", "data.name=dots", "data.image_size=16", "data.num_workers=0"),
        *("data.num_classes=2", "model.patch_size=8", "model.embed_dim=8", "model.depth=1", "model.num_heads=1"),
        *("training.batch_size=4", "training.precision=fp32", "data.auto_augment=null", "schedule.warmup_epochs=null"),
    ],
    "lm": [
        *("task=lm", "data=wikitext2", "data.name=few", "model.depth=1", "model.dim=8", "model.num_heads=1"),
        *("model.ffn_dim=8", "training.batch_size=2", "model.segment_length=4", "model.memory_length=4"),
        *("model.eval_segment_length=4", "model.eval_memory_length=4", "data.eval_batch_size=2"),
    ],
    "mt": [
        *("task=mt", "data=multi30k", "data.name=five", "model.encoder_depth=1", "model.decoder_depth=1"),
        *("model.dim=8", "model.num_heads=1", "model.ffn_dim=8", "model.max_length=40", "data.bpe_merges=5"),
        *("data.test_split=test", "training.batch_size=64", "decoding.beam=2"),
    ],
}
DATA = {"deit": ["deit", "deit-table"], "lm": ["lm", "lm-table"], "mt": ["mt"]}
VALUES = [
    *("", "null", "-1", "0", "1", "3", "0.5", "1e30", "nan", "inf", "-inf", "true", "x", "ä", "it's", "a,b", "[", "[]"),
    *("[1]", "[[1]]", "[x]", "{}", "{a: 1}", "${seed}", "${x}", "???", "9" * 25, str(2**62), "1e400"),
    *("/dev/null", "/proc/self/mem", ".", "..", "/", "~no_such_user/x", "~", "a b", "\\", "(", "x" * 300, "\n", "\x01"),
]
KEYS = {task: sorted(key for key, _ in flatten(skeleton(task_module(task).Config))) for task in TASKS}
GROUPS = ["task", "scale", "model", "data", "recipe", "reweight", "reweight/output", "logger", "experiment", "hydra"]


@dataclass
class Outcome:
    """What came of a draw: the command, its exit code, what it printed, and its own CPU time."""

    command: list[str]
    mutation: str
    code: int
    errors: str
    printed: str
    cpu_seconds: float

    @property
    def is_training(self) -> bool:
        """Whether it has taken a step, so that ending it by Ctrl-C is no fault."""
        step = r"^step [1-9]|^stopped at step [1-9]"
        return re.search(step, self.printed + "\n" + self.errors, re.MULTILINE) is not None

    @property
    def is_fine(self) -> bool:
        """Whether it has done what was asked, or says in one line what is wrong."""
        lines = self.errors.strip().splitlines()
        told = len([line for line in lines if line.startswith("error: ")])
        mute = "Traceback" not in self.errors
        done = self.code == 0 or (self.code == 130 and self.is_training)
        return mute and (done or (self.code == 2 and told == 1 and lines[-1].startswith("error: ")))


def overrides(folder: Path, task: str) -> list[str]:
    places = [f"data.root={folder / 'data' / task}", f"run_dir={folder / 'runs' / task}"]
    return [*TASKS[task], *TINY, *places, *([] if task == "deit" else [f"data.cache_dir={folder / 'cache'}"])]


def tables(folder: Path) -> None:
    """Write the images and the text as parquet too, beside the folders of plain files."""
    images, text = folder / "data" / "deit-table", folder / "data" / "lm-table"
    names = datasets.ClassLabel(names=["cats", "dogs"])
    for split in ("train", "val"):
        files = sorted((folder / "data" / "deit" / split).rglob("*.png"))
        columns = {"image": list(map(str, files)), "label": [names.str2int(path.parent.name) for path in files]}
        features = datasets.Features({"image": datasets.Image(), "label": names})
        images.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features).to_parquet(images / f"{split}.parquet")
    for split in ("train", "valid", "test"):
        lines = (folder / "data" / "lm" / f"wiki.{split}.tokens").read_text(encoding="utf-8").splitlines()
        text.mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"text": lines}).to_parquet(text / f"{split}.parquet")


def prepare(folder: Path) -> None:
    """Make data for each task, a finished run on them, and a results folder with a plan."""
    draws = random.Random(0)
    for split in ("train", "val"):
        for label in ("cats", "dogs"):
            images = folder / "data" / "deit" / split / label
            images.mkdir(parents=True)
            for index in range(4):
                Image.frombytes("RGB", (20, 20), draws.randbytes(1200)).save(images / f"{index}.png")
    words = ["der", "Hund", "schläft", "lacht", "ein", "Kind", ".", "und"]
    for split in ("train", "valid", "test"):
        for name in (
            f"lm/wiki.{split}.tokens",
            f"mt/{split.replace('valid', 'val')}.de",
            f"mt/{split.replace('valid', 'val')}.en",
        ):
            path = folder / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(" ".join(draws.choices(words, k=6)) + "\n" for _ in range(20)), encoding="utf-8")
    tables(folder)
    results = folder / "results"
    for task in TASKS:
        done = run(["train.py", *overrides(folder, task)], folder, "none")
        assert done.code == 0, done.errors
        record(Run(folder / "runs" / task), results / "runs")
    shutil.copy(ROOT / "results" / "claims.yaml", results)
    (results / "plan.yaml").write_text(yaml.safe_dump({"marked_mean": ENTRY}))
    rows = [{"plan": "", "revision": "abc", "arm": "softmax", "rate": "0.1", "seed": "1000", "error@32": "0.3"}]
    (results / "planned").mkdir()
    (results / "planned" / "marked_mean.csv").write_text(text(rows))


def draw(folder: Path, seed: int, scratch: Path) -> Outcome:
    """Mutate a copy of everything in ``folder``, or a command line, and run it in ``scratch``."""
    choice = random.Random(seed)
    shutil.copytree(folder, scratch)
    task = choice.choice(list(TASKS))
    data = choice.choice(DATA[task])
    command = [
        word.replace(f"{scratch}/data/{task}", f"{scratch}/data/{data}") if word.startswith("data.root=") else word
        for word in choose_command(scratch, task, choice)
    ]
    kind = choice.choice(["word", "word", "value", "value", "run", "run", "data", "results"])
    if kind == "results":
        command = choose_reading(scratch, choice)
    mutation = kind
    if kind == "word":
        at = choice.randrange(1, len(command))
        command[at], mutation = mangle(command[at], choice), f"word {command[at]}"
    elif kind == "value":
        keys = [line.split("=")[0] for line in overrides(scratch, task) if "." in line] + KEYS[task]
        key = choice.choice([*keys, *GROUPS])
        command.append(f"{choice.choice(['', '', '', '+', '++'])}{key}={choice.choice(VALUES)}")
        if command[0] not in ("train.py", "evaluate.py", "generate.py"):
            command[0:] = ["evaluate.py", str(scratch / "runs" / task), command[-1]]
    else:
        place = {"run": f"runs/{task}", "data": f"data/{data}", "results": "results"}[kind]
        files = sorted((scratch / place).rglob("*"))
        path = choice.choice(files)
        mutation = f"{damage(path, choice)} {path.relative_to(scratch)}"
        if kind == "data" and command[0] == "train.py":
            command = [word for word in command if not word.startswith("run_dir=")]
    return run(command, scratch, mutation)


def choose_command(folder: Path, task: str, choice: random.Random) -> list[str]:
    at, data = str(folder / "runs" / task), folder / "data"
    train = ["train.py", *overrides(folder, task)]
    longer = [*train, f"training.steps={choice.choice([2, 3])}", f"seed={choice.choice([0, 1])}"]
    commands = [
        train,
        longer,
        [word for word in longer if not word.startswith("run_dir=")],
        ["evaluate.py", at, f"data.root={data / task}"],
        ["report", "--results", str(folder / "results"), "record", at],
        ["report", "pack", at, "--to", str(folder / "packed")],
        ["figures", "statistics", at],
        ["diagnose", at],
        choose_reading(folder, choice),
        *{
            "deit": [
                ["figures", "maps", at, "--image", str(data / "deit/val/cats/0.png")],
                ["evaluate.py", at, "--ema"],
            ],
            "lm": [["generate.py", at, "--prompt", "der Hund", "--tokens", "3"], ["figures", "heads", at]],
            "mt": [
                ["evaluate.py", at, "--translate", str(data / "mt/test.de"), "--beam", "1"],
                ["evaluate.py", at, "--hypotheses", str(data / "mt/test.en"), "--split", "test"],
                ["figures", "alignment", at],
                ["prepare_iwslt14.py", str(folder / "made"), "--text", str(data / "mt"), "bpe_merges=5"],
            ],
        }[task],
    ]
    return list(choice.choice(commands))


def choose_reading(folder: Path, choice: random.Random) -> list[str]:
    """A command that reads the results, or the plan."""
    results = folder / "results"
    places = ["--plan", str(results / "plan.yaml"), "--to", str(results / "planned")]
    return list(
        choice.choice(
            [
                ["report", "--results", str(results), "tables"],
                ["report", "--results", str(results), "page"],
                ["planned", "status", *places],
                ["planned", "confirm", "marked_mean", *places],
            ]
        )
    )


def nothing() -> None:
    pass


def run(
    command: list[str],
    folder: Path,
    mutation: str,
    variables: Mapping[str, str | None] = MappingProxyType({}),
    prepare: Callable[[], None] = nothing,
    seconds: int | None = None,
    fresh: bool = False,
) -> Outcome:
    """Run a command in ``folder`` in its own process, with ``variables`` set (None: unset).

    ``prepare`` is called in that process before the command. The process gets Ctrl-C after
    ``seconds`` on the clock; if that is None, after SECONDS or OTHERS_SECONDS of CPU time, or after
    PATIENCE on the clock. A ``fresh`` process has the variables before it imports anything.
    """
    folders = (Path(__file__).parent, ROOT / "tests", Path(cli.__file__).parents[2])
    paths = {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    for name in ("stdout", "stderr", "cpu"):  # a copied folder holds those of an earlier run
        (folder / name).write_text("")
    errors = folder / "stderr"
    arguments = (command, str(folder), str(errors), dict(variables), prepare)
    if fresh:
        process = get_context("spawn").Process(target=in_process, args=arguments)
        with environment(paths | dict(variables)):
            process.start()
    else:
        context = get_context("forkserver")
        context.set_forkserver_preload(["fuzzing"])
        with environment(paths):
            forkserver.ensure_running()
        process = context.Process(target=in_process, args=arguments)
        process.start()
    ends = time.monotonic() + (PATIENCE if seconds is None else seconds)
    most = math.inf if seconds is not None else SECONDS if command[0] in TRAINS else OTHERS_SECONDS
    while process.is_alive() and time.monotonic() < ends and (most == math.inf or own_time(process.pid) < most):
        process.join(0.5)
    if process.is_alive():
        with suppress(ProcessLookupError):  # it may have just ended
            os.kill(process.pid, signal.SIGINT)
        process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    printed, cpu = ((folder / name).read_text(errors="replace") for name in ("stdout", "cpu"))
    return Outcome(
        command, mutation, process.exitcode, errors.read_text(errors="replace"), printed, float(cpu or "inf")
    )


def own_time(pid: int) -> float:
    """CPU seconds that a process has used; infinite for one that has gone."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return math.inf
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of this process for the duration of the block; None: unset."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    for name in [name for name, value in variables.items() if value is None]:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_process(
    command: list[str], folder: str, errors: str, variables: dict[str, str | None], prepare: Callable[[], None]
) -> None:
    began = time.process_time()
    os.chdir(folder)
    cpu = os.open("cpu", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream, path in ((sys.stdout, "stdout"), (sys.stderr, errors)):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache" / "datasets"
    for name, value in variables.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    prepare()
    sys.argv = list(command)
    try:
        COMMANDS[command[0]]()
    finally:
        os.write(cpu, str(time.process_time() - began).encode())


if __name__ == "__main__":  # python fuzzing.py FOLDER FIRST LAST prints what fails as JSON lines
    base, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if not base.exists():
        prepare(base)
    for number in range(first, last):
        place = base.parent / f"draw-{number}"
        shutil.rmtree(place, ignore_errors=True)
        found = draw(base, number, place)
        shutil.rmtree(place, ignore_errors=True)
        if not found.is_fine:
            print(json.dumps({"seed": number, **found.__dict__}), flush=True)
