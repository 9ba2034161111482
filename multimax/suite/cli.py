"""Behind ``train.py``, ``evaluate.py`` and ``generate.py``. A user's mistake ends in one line and exit code 2."""

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from multimax.suite import loggers
from multimax.suite.composition import (
    CONFIGS,
    explain,
    import_given_plugins,
    known_keys,
    readable_overrides,
    register_groups,
    typed,
)
from multimax.suite.data.left_out import LeftOut
from multimax.suite.engine import distributed, parent, slurm
from multimax.suite.engine.console import format_metrics, say
from multimax.suite.engine.memory import keep_freed_memory
from multimax.suite.engine.open import OpenRun
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import Interrupted, Parser, UserError, limits_explained, one_line_errors, whole
from multimax.suite.identity import run_folder
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module, task_of
from multimax.suite.tasks.base import Shard, Task

FOLDERS = ("hydra.run.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir")
"""Hydra's keys that move files, but would not move a run's."""

failures: list[str] = []
launcher: int | None = None  # the process that called train()
config_dir: str | None = None  # as it was typed


@one_line_errors
def train() -> None:
    """Compose the configuration from the command line and train, or hand a sweep to Hydra's launcher."""
    global launcher, config_dir
    launcher = os.getpid()
    # Hydra would print its own error report and exit; with this it raises, and we report in one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = Parser(parents=[get_args_parser()], add_help=False).parse_intermixed_args()
    config_dir = arguments.config_dir
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir} is not a folder")
    import_given_plugins(arguments.overrides)
    register_groups()
    overrides = readable_overrides(arguments.overrides, arguments.multirun, config_dir)
    for override in overrides:
        if override.lstrip("+").split("=")[0] in FOLDERS:
            raise UserError(f"{override}: runs are in runs_dir=FOLDER, and one of them is in run_dir=FOLDER: set those")
    options = [word for word in sys.argv[1:] if word not in arguments.overrides]
    sys.argv[1:] = [*options, *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, *known_keys(overrides, config_dir))) from None
    except UnicodeDecodeError:
        for path in sorted(Path(config_dir or CONFIGS).rglob("*.yaml")):
            try:
                path.read_text(encoding="utf-8")
            except ValueError:
                raise UserError(f"{path} is not UTF-8") from None
        raise
    except Exception as error:  # of a sweeper that looks for the best score, where runs failed and have none
        if not failures and isinstance(error, ValueError) and raised_in_hydra(error):  # of options that do not agree
            raise UserError(str(error)) from None
        if not failures:
            raise
    if failures:
        raise UserError(*failures)


def raised_in_hydra(error: Exception) -> bool:
    return "hydra" in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts


def job(composed: DictConfig) -> float | None:
    """What Hydra calls. Hydra must not see our errors, or it reports them first; a sweep goes on after a failed run."""
    try:
        overrides = HydraConfig.get().overrides.task
        return train_composed(composed, overrides, command_for(overrides))
    except UserError as error:
        if os.getpid() != launcher:
            raise  # in a launcher's own process, which must know that its job failed
        hydra_config = HydraConfig.get()
        where = f"{hydra_config.job.override_dirname}: " if hydra_config.mode == RunMode.MULTIRUN else ""
        failures.append(f"{where}{error}")
        return None


@limits_explained()
def train_composed(composed: DictConfig, overrides: Sequence[str], command: str) -> float:
    """Train the run of a composed configuration; returns the final metric, which a sweeper may optimise.

    It was composed with ``overrides``; ``command``, with which they are typed, is recorded in the run.
    """
    world = distributed.world_size()
    config = parent.found(typed(composed, world, overrides))
    first = distributed.rank() == 0
    if first:
        say(f"scale={config.scale}: {' '.join(config.description.split())}")
    path = run_folder(config)
    writer = RunWriter(path, config, active=first, command=command)
    device = distributed.choose_device(config.training.device)
    if writer.run.score is None and (config.scale, config.training.device, device.type) == ("paper", "auto", "cpu"):
        raise UserError(
            "scale=paper would take months without a GPU, and torch finds none here: training.device=cpu starts it all "
            "the same; scale=small and scale=demo are smaller"
        )
    if device.type == "cpu":
        keep_freed_memory()
    with distributed.processes(device):
        task = task_of(composed).create(config)
        if (score := writer.run.score) is not None:
            if first:
                writer.run.check_data(task.fingerprint())
                say(f"{path} is finished: {format_metrics(writer.run.final)}")
            return score
        try:
            observer = loggers.follow(Run(path), config.logger.name if first else "none")
            return Trainer(task, writer, observer).run()[task.metric]
        except Interrupted as stopped:
            if stopped.out_of_time and first:
                slurm.requeue()
            raise


@one_line_errors
def evaluate() -> None:
    """Score a checkpoint on the validation data of its run and print the metrics as JSON; torchrun takes several GPUs.

    With a run of task=mt also: translate text, or score translations that are there.
    """
    parser = run_parser(evaluate)
    parser.add_argument("--split", help="data to score instead: data.eval_split=SPLIT")
    parser.add_argument("--beam", type=int, help="hypotheses of the beam search: decoding.beam=BEAM")
    parser.add_argument("--length-penalty", type=float, help="decoding.length_penalty=LENGTH_PENALTY")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--translate", metavar="FILE", help="print translations of its lines; - is standard input")
    what.add_argument("--hypotheses", metavar="FILE", help="score its lines as translations; - is standard input")
    parser.add_argument("--nbest", type=int, metavar="N", help="of --translate: N of each line, and scores")
    arguments = parser.parse_intermixed_args()
    shortcuts = {
        "data.eval_split": arguments.split,
        "decoding.beam": arguments.beam,
        "decoding.length_penalty": arguments.length_penalty,
    }
    arguments.overrides += [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    if arguments.nbest is not None and arguments.translate is None:
        raise UserError("--nbest is for --translate FILE")
    if arguments.translate is None and arguments.hypotheses is None:
        run = open_run(arguments)
        with distributed.processes(run.device), torch.no_grad(), run.autocast():
            shard = Shard(distributed.rank(), distributed.world_size())
            for found in distributed.from_first(run.task.scored_left_out):
                if shard.rank == 0:
                    print(found, file=sys.stderr)
            metrics = run.task.metrics(distributed.all_reduce(run.task.evaluate(run.model, run.device, shard)))
        if shard.rank == 0:
            print_scores(run.task, {"checkpoint": " ".join(map(str, run.checkpoints))}, metrics)
    elif arguments.hypotheses is not None:
        score_hypotheses(arguments)
    else:
        print_translations(arguments)


def score_hypotheses(arguments: argparse.Namespace) -> None:
    from multimax.suite import translate

    decoding = (arguments.beam, arguments.length_penalty)
    if decoding != (None, None) or arguments.checkpoint != "last" or arguments.ema:
        raise UserError(
            "--hypotheses scores text that is there: --beam, --length-penalty, --checkpoint and --ema have no use"
        )
    text = translate.TextFile(arguments.hypotheses)
    task = task_module("mt").create(open_run(arguments, needs="mt").config)
    print_scores(task, {"hypotheses": arguments.hypotheses}, translate.score_text(task, text))


def print_translations(arguments: argparse.Namespace) -> None:
    from multimax.suite import translate

    text = translate.TextFile(arguments.translate)
    as_utf8()
    run = open_run(arguments, needs="mt")
    beam = run.config.decoding.beam
    if arguments.nbest is not None and not 1 <= arguments.nbest <= beam:
        raise UserError(f"--nbest {arguments.nbest} is not from 1 to decoding.beam={beam}: a wider --beam finds more")
    with torch.no_grad(), run.autocast():
        for line in translate.translate_text(run.task, run.model, run.device, text, arguments.nbest):
            print(line, flush=True)


def print_scores(task: Task, of: dict[str, str], metrics: dict[str, float]) -> None:
    """Metrics as JSON, with the split that they are of and, of BLEU, the way it was computed."""
    scores: dict[str, Any] = {**of, "split": getattr(task.config.data, "eval_split", "validation"), **metrics}
    if computed := {name: signature for name, signature in task.signatures().items() if name in metrics}:
        scores["signatures"] = computed
    print(json.dumps(scores, indent=1))


@one_line_errors
def generate() -> None:
    """Continue a text with a language model of a run, and print prompt and continuation."""
    from multimax.suite.decoding import Sampling, continue_text
    from multimax.suite.tasks.language_modeling import LanguageModeling

    parser = run_parser(generate)
    parser.add_argument("--prompt", default="\n", help="text to continue; default: a new line")
    parser.add_argument("--tokens", type=whole(0, 10**6), default=200, help="number of tokens to add (default 200)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the most probable token")
    parser.add_argument("--top-k", type=int, help="draw from the k most probable tokens")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the fewest tokens with this much mass")
    parser.add_argument("--seed", type=whole(0), default=0)
    arguments = parser.parse_intermixed_args()
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    sampling.check()
    run = open_run(arguments, needs="lm")
    assert isinstance(run.task, LanguageModeling)
    vocabulary = run.task.corpus.vocabulary
    ids = vocabulary.encode(arguments.prompt)
    if unknown := ids.count(vocabulary.unknown):
        reason = {"the vocabulary lacks them": unknown}
        print(LeftOut("tokens of the prompt", len(ids), reason, "are read as <unk>"), file=sys.stderr)
    prompt = torch.tensor([ids], dtype=torch.long, device=run.device)
    with run.autocast():
        generator = torch.Generator(run.device).manual_seed(arguments.seed)
        tokens = continue_text(run.model, prompt, arguments.tokens, sampling, generator)
    as_utf8()
    print(vocabulary.decode([*prompt[0].tolist(), *tokens[0].tolist()]))


def as_utf8() -> None:
    """Print text as it was read, whatever the terminal's encoding: an escaped letter would be another text."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")


def run_parser(command: Callable[[], None]) -> argparse.ArgumentParser:
    """Options of a command that reads a run."""
    parser = Parser(prog=program(command.__name__)[-1], description=command.__doc__)
    parser.add_argument("run", type=Path, help="run folder, as training printed it")
    add_checkpoint_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for instance data.root=PATH")
    return parser


def command_for(overrides: Sequence[str]) -> str:
    """The command line, typed where this one was, for the run of ``overrides`` alone."""
    own = [] if config_dir is None else ["--config-dir", config_dir]
    return shlex.join([*program("train"), *own, *overrides])


def program(name: str) -> list[str]:
    """How this program was started: a script of the clone, or a command installed by a wheel."""
    installed = f"multimax-{name}"
    return [installed] if Path(sys.argv[0]).name == installed else ["python", f"{name}.py"]


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Which weights of a run are read."""
    parser.add_argument(
        "--checkpoint", default="last", help="last (default), best, average, or a name such as step-00001234"
    )
    parser.add_argument("--ema", action="store_true", help="use the averaged weights")


def open_run(arguments: argparse.Namespace, needs: str | None = None) -> OpenRun:
    """The run that the options name, each part opened on first use."""
    return OpenRun(Run(arguments.run), arguments.overrides, arguments.checkpoint, arguments.ema, needs)
