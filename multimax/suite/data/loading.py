"""Batches that depend only on the seed and the step.

What a step trains on is a pure function of (seed, step): the examples, their order, and everything random in them. So a
run that is resumed mid-epoch, or moved to another number of workers, processes or accumulation steps, sees the same
bits.
"""

import itertools
import os
import random
import re
import shutil
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from multiprocessing import queues
from types import FrameType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from multimax.suite.errors import UserError

T = TypeVar("T")
Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)


class Examples(Protocol[Batch_co]):
    """A map-style dataset that can batch its examples.

    ``__getitem__`` may draw from Python's, NumPy's and torch's global generators, which are seeded for it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def collate(self, examples: list[Any]) -> Batch_co: ...


class Stream(IntEnum):
    """Purposes of random numbers; they separate what is drawn from the same seed and step."""

    ORDER = 0
    EXAMPLE = 1
    MIX = 2
    PLACE = 3
    PATCH_MIX = 4


def random_seeds(stream: Stream, seed: int, step: int, count: int) -> list[int]:
    """``count`` seeds in [0, 2^32); entry i is a function of (stream, seed, step, i)."""
    return np.random.SeedSequence((seed, step, stream)).generate_state(count).tolist()


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch's CPU, which augmentation libraries draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 timm draws from the legacy generator
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU too


@contextmanager
def preserved_generators() -> Iterator[None]:
    """After the block, the global generators continue as if it had drawn nothing."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


class EpochOrder:
    """A fresh random permutation each epoch, cut into batches; an incomplete last batch is left out.

    With ``repeats`` > 1, each example of the permutation occurs that many times and the epoch keeps its length, so it
    covers one ``repeats``-th of the examples: DeiT's repeated augmentation (Hoffer et al., 1901.09335). The copies are
    dealt to different ``groups`` of the batch, as DeiT deals them to different GPUs, each with its own mixup: group g
    is the g-th of equal pieces of the batch's front and the mirrored piece of its back, as in ``shard``.

    Args:
        num_examples: examples in the data set.
        batch_size: examples in a global batch.
        seed: not negative.
        repeats: how often each example occurs.
        groups: number of groups that copies are dealt to; with one they may meet anywhere.

    Raises:
        UserError: an epoch would not fill one batch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, repeats: int = 1, groups: int = 1) -> None:
        if not 1 <= batch_size <= num_examples:
            raise UserError(
                f"training.batch_size={batch_size} must be between 1 and the {num_examples} training examples"
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.groups = groups
        self.steps_per_epoch = num_examples // batch_size
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of global batch ``step``, counted from the start of training."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng(random_seeds(Stream.ORDER, self.seed, epoch, count=4))
            self._epoch, self._permutation = epoch, generator.permutation(self.num_examples)
        positions = np.arange(step_of_epoch * self.batch_size, (step_of_epoch + 1) * self.batch_size)
        if self.repeats > 1:
            generator = np.random.default_rng(random_seeds(Stream.PLACE, self.seed, step, count=4))
            dealt = generator.permuted(positions.reshape(-1, self.groups), axis=0).T  # [groups, size of a group]
            front, back = np.split(dealt, [(dealt.shape[1] + 1) // 2], axis=1)
            positions = np.concatenate([front.ravel(), back.ravel()[::-1]])
        return self._permutation[positions // self.repeats].tolist()


def shares(total: int, parts: int) -> list[int]:
    """Sizes of the pieces of ``total``, as equal as possible, larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def micro_batch_sizes(batch_size: int, rank: int, world: int, micro_batches: int) -> list[int]:
    """Sizes of one process's micro-batches: at most ``micro_batches``, none empty.

    Raises UserError if there are more processes than examples.
    """
    check_batch_size(batch_size, world, micro_batches)
    own = shares(batch_size, world)[rank]
    return shares(own, min(own, micro_batches))


def rows(batch_size: int, rank: int, world: int, micro_batches: int) -> list[range]:
    """Which rows of a global batch a process's micro-batches have. Raises UserError like ``micro_batch_sizes``."""
    sizes = micro_batch_sizes(batch_size, rank, world, micro_batches)
    edges = itertools.accumulate(sizes, initial=sum(shares(batch_size, world)[:rank]))
    return [range(*edge) for edge in itertools.pairwise(edges)]


def check_batch_size(batch_size: int, world: int, micro_batches: int, *, mixed: bool = False) -> None:
    """Raise UserError unless each process gets part of a global batch and, for mixup or cutmix, equally many pairs."""
    if batch_size < world:
        raise UserError(f"training.batch_size={batch_size} is less than the {world} processes: start fewer")
    parts = world * micro_batches
    if mixed and batch_size % (2 * parts):
        fit = [count for count in range(1, batch_size + 1) if batch_size % (2 * count * micro_batches) == 0]
        near = [max((n for n in fit if n < world), default=0), min((n for n in fit if n > world), default=0)]
        start = " or ".join(str(count) for count in near if count)
        size = max(1, batch_size // (2 * parts)) * 2 * parts
        raise UserError(
            f"training.batch_size={batch_size} over {world} processes x {micro_batches} micro-batches: mixup and "
            f"cutmix mix pairs, and need the same even number of images in each: {f'start {start}, or ' * bool(start)}"
            f"set training.batch_size={size}, which is another experiment"
        )


def shard(batch: Sequence[T], rank: int, world: int, micro_batches: int) -> list[list[T]]:
    """One process's micro-batches.

    timm's Mixup mixes each element with the one equally far from the other end of the batch. So a part takes a piece of
    the front and the mirrored piece of the back: if all parts are equal, a part of even size pairs the elements that
    the whole batch pairs.

    Raises:
        UserError: there are more processes than elements.
    """
    sizes = [micro_batch_sizes(len(batch), other, world, micro_batches) for other in range(rank + 1)]
    before = sum(map(len, sizes[:rank]))
    fronts = [0, *itertools.accumulate(size - size // 2 for own in sizes for size in own)]
    backs = [0, *itertools.accumulate(size // 2 for own in sizes for size in own)]
    return [
        [
            *batch[fronts[part] : fronts[part + 1]],
            *batch[len(batch) - backs[part + 1] : len(batch) - backs[part]],
        ]
        for part in range(before, before + len(sizes[rank]))
    ]


def train_batches(
    dataset: Examples[Batch],
    order: EpochOrder,
    *,
    start_step: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    micro_batches: int = 1,
    num_workers: int = 0,
) -> Iterator[list[Batch]]:
    """This process's micro-batches of step ``start_step`` and every later step, without end.

    Workers live as long as the iterator; closing or dropping it ends them.

    Raises:
        UserError: there are more processes than examples (at once), or the data cannot be read (while iterating).
    """
    size = len(micro_batch_sizes(len(order.batch(start_step)), rank, world, micro_batches))

    def parts() -> Iterator[list[tuple[int, int]]]:
        for step in itertools.count(start_step):
            indices = order.batch(step)
            seeds = random_seeds(Stream.EXAMPLE, seed, step, len(indices))
            yield from shard(list(zip(indices, seeds, strict=True)), rank, world, micro_batches)

    batches = _load(_Seeded(dataset), dataset.collate, parts(), num_workers)
    return _grouped(batches, size)


def eval_batches(
    dataset: Examples[Batch], batch_size: int, *, rank: int = 0, world: int = 1, num_workers: int = 0
) -> Iterator[Batch]:
    """Batches of at most ``batch_size`` in which each example occurs exactly once over all processes.

    Processes may get different numbers of batches, so sum over processes after the last one, not in between.
    """
    indices = range(rank, len(dataset), world)
    parts = (list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size))
    return _load(dataset, dataset.collate, parts, num_workers)


class _Seeded:
    """Seeds the global generators for each example; an index is (index, seed)."""

    def __init__(self, dataset: Examples[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        seed_generators(seed)
        return self.dataset[index]


def _load(dataset: Any, collate: Any, parts: Iterable[list[Any]], num_workers: int) -> Iterator[Any]:
    loader = DataLoader(
        dataset,
        batch_sampler=parts,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    # Without room for its semaphores, torch's loader leaves a half-built iterator whose deletion prints a traceback.
    if num_workers and os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free < 2**16:
        raise UserError(worker_failure("No space left on device", num_workers))
    try:
        with preserved_generators():  # the loader draws a seed that we do not use
            batches = iter(loader)
    except OSError as error:
        raise UserError(f"data.num_workers={num_workers} cannot be started: {error.strerror}; lower it") from None
    if num_workers:
        _explain_deaths(num_workers)
    while True:
        try:
            with preserved_generators():  # without workers, this process makes the examples
                batch = next(batches)
        except StopIteration:
            return
        except UserError as error:  # a worker's error arrives as the text of its traceback
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
        except (OSError, RuntimeError, MemoryError) as error:
            if isinstance(error.__cause__, UserError):  # raised by the handler below, while torch waits
                raise error.__cause__ from None
            if num_workers and (reason := worker_failure(str(error), num_workers)):
                raise UserError(reason) from None
            raise
        yield batch


def worker_failure(message: str, num_workers: int) -> str | None:
    """What torch's message about a data worker means, with the remedy; None if the machine is not to blame."""
    if re.search("Bus error|shared memory|No space left on device|unable to (mmap|write to file|open shared)", message):
        return (
            f"/dev/shm is full, where data.num_workers={num_workers} hand over what they load: enlarge it (docker run "
            "--shm-size=8g), lower data.num_workers, or set it to 0; the same command continues the run"
        )
    if re.search("Too many open files|ancdata", message):
        return f"too many open files for data.num_workers={num_workers}: raise the limit by ulimit -n, or lower it"
    if died := re.search(r"killed by signal: (?P<signal>[\w ]+)|exited unexpectedly|MemoryError", message):
        how = (
            "ran out of memory"
            if died[0] == "MemoryError"
            else f"was killed ({died['signal'] or 'it is not said why'})"
        )
        return (
            f"a data worker {how}, as happens when memory runs out: lower data.num_workers or free memory; "
            "the same command continues the run"
        )
    return None


def _explain_deaths(num_workers: int) -> None:
    """Turn the error that torch raises from a signal handler when a worker dies into a UserError."""
    raises = signal.getsignal(signal.SIGCHLD)
    if not callable(raises) or raises.__module__ == __name__:
        return

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            raises(number, frame)
        except RuntimeError as error:
            raise UserError(worker_failure(str(error), num_workers) or str(error)) from None

    signal.signal(signal.SIGCHLD, handler)


def _grouped(batches: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(itertools.islice(batches, size)):
        yield group


def _start_worker(_worker: int) -> None:
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    # Ctrl-C, timeout and the like signal the whole group, but it is training that decides when it no longer needs its
    # workers. (Ignoring the signals would not do: a loader ends a stuck worker with SIGTERM.)
    os.setpgid(0, 0)


def _end_worker(error: BaseException, _batch: object) -> None:
    """End a worker that cannot hand over a batch: torch would just print the error, and training would wait forever."""
    if "/dev/shm" in (worker_failure(str(error), 0) or ""):
        os.kill(os.getpid(), signal.SIGBUS)  # as for a missing page of shared memory
        threading.Event().wait()
    traceback.print_exception(error)
    os._exit(1)
