"""A sweep's runs as jobs, on Slurm or on this machine, with their code and configurations frozen at submission.

``SWEEP/code`` is a copy of the package and the plugins as they are when the sweep is submitted, including uncommitted
changes (also in ``uncommitted.diff``, to read); ``SWEEP/configs`` has one composed configuration per run. The jobs read
nothing else of the project: a run that starts days later, or again after a preemption, is what was submitted, whatever
happens to the repository. What the plugins themselves import from PYTHONPATH is not copied.
"""

import importlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import submitit
import torch
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf, open_dict
from submitit.core.utils import FailedJobError
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

import multimax
from multimax.suite import plugins
from multimax.suite.cli import command_for, train_composed
from multimax.suite.composition import typed
from multimax.suite.config import RunConfig
from multimax.suite.data.fingerprint import Fingerprint
from multimax.suite.engine import parent
from multimax.suite.engine.console import format_metrics, say
from multimax.suite.engine.provenance import REVISION, git, revision
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.errors import Interrupted, UserError
from multimax.suite.identity import run_folder, setting
from multimax.suite.runs import Run, read_runs
from multimax.suite.tasks import task_of

OURS = {"_target_", "submitit_folder", "resources", "parallel", "dry_run", "max_num_timeout"}  # not submitit's
COMMON = {*BaseQueueConf.__dataclass_fields__}  # what submitit takes for every kind of cluster, without a prefix


@dataclass
class Member:
    """One run of a sweep, with the ``overrides`` that it was composed with, and the ``command`` that they make."""

    path: Path
    composed: DictConfig
    config: RunConfig
    launcher: dict[str, Any]  # hydra.launcher as it is for this run
    overrides: list[str]
    command: str

    @property
    def score(self) -> float | None:
        return Run(self.path).score

    @property
    def processes(self) -> int:
        return self.launcher["nodes"] * self.launcher["tasks_per_node"]

    @property
    def gpus(self) -> int:
        return self.launcher["nodes"] * (self.launcher["gpus_per_node"] or 0)

    def submitit_parameters(self) -> dict[str, Any]:
        return {key: value for key, value in self.launcher.items() if key not in OURS}


class Train(Checkpointable):
    """What a job does. submitit starts it again after a time-out before the training has begun."""

    def __call__(self, config: Path, overrides: list[str], command: str) -> float:
        environment = submitit.JobEnvironment()
        if environment.cluster == "local" and environment.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        try:
            return train_composed(cast(DictConfig, OmegaConf.load(config)), overrides, command)
        except Interrupted as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(130)


def member(composed: DictConfig, overrides: list[str], swept: str) -> Member:
    """A run of a sweep, distinguished by ``swept``; raises UserError if it cannot run."""
    launcher = cast(dict[str, Any], OmegaConf.to_container(composed.hydra.launcher, resolve=True))
    with open_dict(composed):
        del composed["hydra"]
    try:
        config = parent.found(typed(composed, launcher["nodes"] * launcher["tasks_per_node"], overrides))
        path = run_folder(config)
        RunWriter(path, config, active=False)
    except UserError as error:
        raise UserError(f"{swept}: {error}" if swept else str(error)) from None
    return Member(path, composed, config, launcher, overrides, command_for(overrides))


def launch(cluster: str, runs: Sequence[Member]) -> list[float | None]:
    """Submit to "slurm", or run on this machine with "local", each run that is not finished.

    Returns the final metrics of the runs that are finished by the end. Raises UserError for a run that occurs twice
    (before anything is submitted), if Slurm rejects the sweep, and at the end if local runs have failed.
    """
    by_folder: dict[Path, Member] = {}
    for run in runs:
        other = by_folder.setdefault(run.path, run)
        if other.composed != run.composed:
            raise UserError(f"the sweep has {run.path} more than once: leave run_dir out, and sweep what differs")
    waiting = [run for run in by_folder.values() if run.score is None]
    if finished := [run for run in by_folder.values() if run not in waiting]:
        check_data(finished)
        say(f"{len(finished)} of {len(by_folder)} runs are finished already")
    arrays = defaultdict(list)
    for run in waiting:
        arrays[repr(run.submitit_parameters())].append(run)
    if runs[0].launcher["dry_run"]:
        say_cost(list(arrays.values()))
    elif waiting:
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError("there is no Slurm here: sbatch is not on the PATH; hydra/launcher=local needs none")
        sweep = Path(runs[0].launcher["submitit_folder"]).resolve()
        python = freeze(sweep, waiting)
        if cluster == "local":
            run_here(sweep, python, waiting)
        else:
            for array in arrays.values():
                submit(sweep, python, array)
    return [run.score for run in runs]


def check_data(finished: Sequence[Member]) -> None:
    """Raise UserError for a finished run of other data than those present now.

    If the data cannot be opened, as on a login node without them, a line says that they were not compared.
    """
    fingerprints: dict[str, Fingerprint | None] = {}
    for member in finished:
        run, config = Run(member.path), member.config
        if run.data is None:
            continue
        key = f"{config.task} {config.data}"
        if key not in fingerprints:
            try:
                fingerprints[key] = task_of(asdict(config)).create(config).fingerprint()
            except UserError as error:
                fingerprints[key] = None
                say(f"the data of finished runs are not compared with those that they were trained on: {error}")
        if (now := fingerprints[key]) is not None:
            run.check_data(now)


def freeze(sweep: Path, runs: Sequence[Member]) -> str:
    """Write the code and the runs' configurations into the sweep's folder; return the command that starts its Python.

    The plugins go with the code.
    """
    code, configs = sweep / "code", sweep / "configs"
    try:
        configs.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"{sweep} is there already: another sweep began in the same second; submit this one again"
        ) from None
    package = Path(multimax.__file__).parent
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, code / package.name, ignore=without_caches)
    if known := revision():
        (code / package.name / REVISION).write_text(f"{known}\n")
    with suppress(OSError, subprocess.CalledProcessError):
        (sweep / "uncommitted.diff").write_text(git("diff", "HEAD"))
    own = {name.split(".")[0] for run in runs for name in plugins.modules(asdict(run.config))}
    for name in sorted(own - {package.name}):
        module = importlib.import_module(name)
        if plugins.is_installed(module):
            continue
        if hasattr(module, "__path__"):
            shutil.copytree(next(iter(module.__path__)), code / name, ignore=without_caches)
        else:
            shutil.copy(str(module.__file__), code)
    for run in runs:
        OmegaConf.save(run.composed, frozen_config(sweep, run), resolve=True)
    path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    # The safe path is one without the working directory, which would come before the frozen code.
    return shlex.join(["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={path}", sys.executable])


def frozen_config(sweep: Path, run: Member) -> Path:
    return sweep / "configs" / f"{run.path.name}.yaml"


def arguments(sweep: Path, run: Member) -> tuple[Path, list[str], str]:
    """The arguments of ``Train`` for a run."""
    return frozen_config(sweep, run), run.overrides, run.command


def submit(sweep: Path, python: str, runs: Sequence[Member]) -> None:
    """Submit the runs to Slurm as one array. Raises UserError if it rejects them."""
    limit = runs[0].launcher["max_num_timeout"]
    executor = submitit.AutoExecutor(sweep / "jobs", "slurm", slurm_python=python, slurm_max_num_timeout=limit)
    executor.update_parameters(
        **{key if key in COMMON else f"slurm_{key}": value for key, value in runs[0].submitit_parameters().items()}
    )
    try:
        jobs = executor.map_array(Train(), *zip(*(arguments(sweep, run) for run in runs), strict=True))
    except FailedJobError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if "rror:" in line), str(error))
        raise UserError(f"Slurm does not take the sweep: {reason.strip()}") from None
    array = jobs[0].job_id.split("_")[0]
    for job, run in zip(jobs, runs, strict=True):
        say(f"{job.job_id}  {run.path}  {job.paths.stdout}")
    say(f"{describe(runs)}: submitted as job {array}; watch it with squeue --me, cancel it with scancel {array}")


def run_here(sweep: Path, python: str, runs: Sequence[Member]) -> None:
    """Run on this machine, some at a time, each on GPUs of its own; a run that fails does not stop the others.

    Raises UserError if there are too few GPUs, and at the end if runs have failed. On Ctrl-C the runs write checkpoints
    and stop.
    """
    parallel, most, mine = runs[0].launcher["parallel"], max(run.gpus for run in runs), gpus_here()
    if 0 < len(mine) < parallel * most:
        raise UserError(
            f"{parallel} runs at a time with {most} GPU(s) each need more than the {len(mine)} that are here: lower "
            "hydra.launcher.parallel"
        )
    waiting = list(runs)
    running: dict[int, tuple[Member, submitit.Job[float]]] = {}  # by its place among those at a time
    failed: list[str] = []
    try:
        while waiting or running:
            for place in [place for place, (_, job) in running.items() if job.done()]:
                run, job = running.pop(place)
                if final := Run(run.path).final:
                    say(f"finished {run.path}: {format_metrics(final)}")
                else:
                    failed.append(f"{run.path} did not finish: see {job.paths.stdout}")
                    say(failed[-1])
            for place in set(range(parallel)) - running.keys():
                if waiting:
                    run = waiting.pop(0)
                    gpus = mine[place * most :][: run.gpus]
                    executor = submitit.LocalExecutor(sweep / "jobs", python=python)
                    executor.update_parameters(**run.submitit_parameters(), visible_gpus=gpus)
                    job = submit_ignoring_ctrl_c(executor, *arguments(sweep, run))
                    running[place] = run, job
                    say(f"started {run.path}, log in {job.paths.stdout}")
            time.sleep(0.2)
    except KeyboardInterrupt:
        while stopping := [job for _, job in running.values() if not job.done()]:
            for job in stopping:  # again and again, for one that had not begun to train; submitit's cancel() would kill
                os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(1)
        raise
    if failed:
        raise UserError(*failed)


def gpus_here() -> list[int]:
    """Numbers of the GPUs that this process may use. Raises UserError if they are not identified by number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(range(torch.cuda.device_count()))
    try:
        return [int(number) for number in visible.split(",") if number]
    except ValueError:
        raise UserError(f"CUDA_VISIBLE_DEVICES={visible} does not number GPUs, which submitit needs") from None


def submit_ignoring_ctrl_c(executor: submitit.LocalExecutor, *arguments: Any) -> submitit.Job[float]:
    """Submit without forwarding Ctrl-C: submitit's controller would kill its run within a second."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(Train(), *arguments)
    finally:
        signal.signal(signal.SIGINT, handler)


def describe(runs: Sequence[Member]) -> str:
    """The resources of the runs of one array."""
    first = runs[0]
    nodes, hours = first.launcher["nodes"], first.launcher["timeout_min"] / 60
    each = f"{nodes} node(s) x {first.launcher['tasks_per_node']} process(es), {first.gpus} GPU(s)"
    return f"{len(runs)} run(s), each with {each}, {first.launcher['mem_gb']} GB per node, {hours:.4g} h at a time"


def say_cost(arrays: Sequence[Sequence[Member]]) -> None:
    """Print what would be submitted and what it would cost, as far as finished runs tell."""
    roots = {run.path.parent for runs in arrays for run in runs} | {Path("results/runs")}
    known = [run for root in sorted(roots) for run in read_runs(root)]
    for runs in arrays:
        say(describe(runs))
        for run in runs:
            say(f"  {run.path}")
        unit = "GPU" if runs[0].gpus else "process"
        width = runs[0].gpus or runs[0].processes
        stays = len(runs) * width * runs[0].launcher["timeout_min"] / 60
        say(f"  at most {stays:.4g} {unit} hours for one stay of each; one that needs longer comes again on top")
        measured = [hours for run in runs if (hours := measured_hours(run, known)) is not None]
        unknown = len(runs) - len(measured)
        if measured:
            like = "by finished runs of the same settings"
            say(f"  measured: {sum(measured):.3g} {unit} hours for {len(measured)} of the {len(runs)} runs, {like}")
        if unknown:
            say(f"  not measured: {unknown} run(s); finish one of the same settings in runs/ and ask again")
    if not arrays:
        say("nothing to submit")


def measured_hours(run: Member, known: Sequence[Run]) -> float | None:
    """Mean hours x processes of finished runs that differ only in reweighting and seed; None without any."""
    wanted = setting(asdict(run.config), type(run.config))
    hours = [
        record.summary["throughput"]["seconds"] / 3600 * record.summary.get("processes", 1)
        for record in known
        if record.config["task"] == run.config.task
        and record.setting == wanted
        and bool(record.summary["environment"]["gpu"]) == bool(run.gpus)
    ]
    return sum(hours) / len(hours) if hours else None
