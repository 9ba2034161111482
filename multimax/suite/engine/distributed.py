"""Processes, one per device. The launcher (torchrun or Slurm's srun) tells each its rank through the environment.

If both do, torchrun counts, since srun has then started torchrun. Only the variables of a Slurm job *step* are read:
batch scripts and salloc's shell have those of the job, and ``python train.py`` is a single process there.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from multimax.suite.errors import Diverged, Interrupted, UserError
from multimax.suite.waiting import waiting

# How long a process waits for the others before it concludes that one of them hangs. This leaves time for a slow
# evaluation, a slow disk or data preparation.
TIMEOUT = timedelta(minutes=30)
T = TypeVar("T")
LEAVE = 20  # seconds for a failed process to report its error and exit
JOIN_TIMEOUT = timedelta(minutes=5)  # for all to start; the launcher notices a process that dies before it joins
TERMINAL_JOIN_TIMEOUT = timedelta(seconds=50)  # in srun's terminal, where the other tasks have no shell
PORTS = range(12_000, 32_000)  # below the ports that systems assign themselves


@dataclass(frozen=True)
class Place:
    """This process's place among those of the run."""

    rank: int = 0
    local_rank: int = 0  # among the processes on this machine
    world: int = 1
    slurm: bool = False


def number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The integer in a launcher's variable. Raises UserError for anything else, KeyError if it is not set."""
    value = environment[name] if default is None else environment.get(name, default)
    try:
        return int(value)
    except ValueError:
        raise UserError(f"the environment has {name}={value}, which is not a number: unset {name}") from None


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place according to the launcher; alone without one. Raises UserError for nonsense."""
    if {"RANK", "WORLD_SIZE"} <= environment.keys():  # not LOCAL_RANK, which other launchers like torch's may leave out
        names = "RANK", "LOCAL_RANK", "WORLD_SIZE"
        rank, local_rank, world = (number(environment, name, 0) for name in names)
    else:
        names = "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"
        if not {*names, "SLURM_STEP_ID"} <= environment.keys() or number(environment, names[2]) <= 1:
            return Place()
        rank, local_rank, world = (number(environment, name) for name in names)
    if not 0 <= rank < world or local_rank < 0:
        raise UserError(
            f"the environment has {names[0]}={rank}, {names[1]}={local_rank} and {names[2]}={world}: "
            f"let torchrun or srun start the processes, or unset {names[0]} for one process"
        )
    return Place(rank, local_rank, world, slurm="SLURM_PROCID" in names)


def world_size() -> int:
    return place().world


def rank() -> int:
    return place().rank


def address(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port where rank 0 waits for the others: MASTER_ADDR and MASTER_PORT, or from Slurm's step.

    Raises UserError if neither is set.
    """
    try:
        if not place(environment).slurm:
            return environment["MASTER_ADDR"], number(environment, "MASTER_PORT")
        host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
        # The same for all tasks of a step, but different for other steps and jobs on the machine, and after a requeue,
        # when processes of the previous start may still hold their port.
        numbers = [number(environment, f"SLURM_{name}", 0) for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        port = PORTS[(16 * numbers[0] + numbers[1] + numbers[2]) % len(PORTS)]
        return host, number(environment, "MASTER_PORT", port)
    except KeyError as error:
        raise UserError(f"{error.args[0]} is not set, so the processes cannot find each other: use torchrun") from None


def first_host(nodes: str) -> str:
    """Name or address of the first machine in Slurm's compressed node list, such as ``gpu[07-09],big1``."""
    name = nodes if not {*nodes} & {*"[,"} else scontrol("show", "hostnames", nodes).split()[0]
    try:
        socket.getaddrinfo(name, None)
    except OSError:  # a node's name need not be its host name
        fields = dict(field.split("=", 1) for field in scontrol("show", "node", name).split() if "=" in field)
        return fields.get("NodeAddr", name)
    return name


def scontrol(*arguments: str) -> str:
    try:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"scontrol {' '.join(arguments)} failed ({error}), so the first machine is unknown: set MASTER_ADDR to it"
        ) from None


def choose_device(name: str) -> torch.device:
    """This process's device for ``training.device``: auto, cpu or cuda. Raises UserError if there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device=cuda, but torch finds no CUDA device here; use training.device=auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    index, count = place().local_rank, torch.cuda.device_count()
    if place().slurm and count == 1:  # --gpus-per-task shows each task only its own
        index = 0
    if index >= count:
        raise UserError(f"process {index} of this machine has no GPU of its own: torch finds {count}; start {count}")
    return torch.device("cuda", index)


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes, if any, for the duration of the block.

    When a process dies, the launcher (torchrun, or ``srun --kill-on-bad-exit=1``) ends the others and names it. A
    process that notices earlier, because a collective with the dead one fails, raises UserError.
    """
    here = place()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if here.world == 1:
        yield
        return
    join(here, device)
    try:
        yield
    except (Interrupted, Diverged):
        leave()
        raise
    except BaseException as error:
        end_by_force_after(LEAVE)
        with suppress(RuntimeError):
            dist.destroy_process_group()  # else its threads may abort the process at exit
        if is_lost_exchange(error):
            reason = str(error).splitlines()[0]
            raise UserError(
                f"process {here.rank} of {here.world} has lost contact with another one: {reason}"
            ) from None
        raise
    else:
        leave()


def join(here: Place, device: torch.device) -> None:
    """Make the process group of the run."""
    host, port = address()
    url = f"tcp://{host}:{port}" if here.slurm else "env://"
    alone = "SLURM_STEP_NUM_TASKS" if here.slurm else "WORLD_SIZE"
    timeout = TERMINAL_JOIN_TIMEOUT if here.slurm and "SLURM_PTY_PORT" in os.environ else JOIN_TIMEOUT
    others = (
        f"the other {here.world - 1} of {alone}={here.world} processes at {host}:{port}, for {timeout} at most "
        f"(for one, unset {alone})"
    )
    try:
        with waiting(others):
            store, _, _ = next(dist.rendezvous(url, here.rank, here.world, timeout=timeout))
            dist.init_process_group(
                # Sums of a few numbers use gloo: on the GPU they would make the host wait for the device in every step.
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=store,
                rank=here.rank,
                world_size=here.world,
                timeout=TIMEOUT,
            )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"process {here.rank} of {here.world} cannot join the others at {host}:{port} (for one process, unset "
            f"{alone}): {reason}"
        ) from error


def leave() -> None:
    """Leave the process group, together with all other processes.

    All wait for rank 0, which may still be writing, since a launcher ends the others as soon as one exits.
    """
    all_reduce({"done": 1.0})
    dist.destroy_process_group()


def end_by_force_after(seconds: int) -> None:
    """Have the system end this failed process if it cannot exit by itself.

    After Python's threads have ended, its exit may still wait for a GPU that waits for another process, and the
    launcher would wait too.
    """
    with suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def is_lost_exchange(error: BaseException) -> bool:
    """Whether ``error`` comes from the process group and so says nothing about the cause."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def all_reduce(values: dict[str, float]) -> dict[str, float]:
    """Sum of each value over all processes, in float64."""
    if not dist.is_initialized():
        return values
    total = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def from_first(work: Callable[[], T]) -> T:
    """Run ``work`` in the first process and return its result in all, which wait: others may see an older disk state.

    If it raises UserError, only the first process explains it; the others raise one without a message.
    """
    given: list[Any] = [None]
    if rank() == 0:
        try:
            given = [work()]
        except UserError as error:
            given = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(given)
    if isinstance(given[0], UserError):
        raise given[0] if rank() == 0 else UserError()
    return given[0]


def all_gather(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, which may have different numbers of them, by rank, on the CPU."""
    if not dist.is_initialized():
        return rows.cpu()
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)
