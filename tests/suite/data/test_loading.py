import os
import random
import signal
from itertools import islice

import numpy as np
import pytest
import torch

from multimax.suite.data.loading import (
    EpochOrder,
    check_batch_size,
    eval_batches,
    rows,
    shard,
    train_batches,
    worker_failure,
)
from multimax.suite.errors import UserError


class Draws:
    """Each example is its index and a draw from each of the three global generators."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    def collate(self, examples: list) -> list:
        return examples


class Broken(Draws):
    def __getitem__(self, index: int) -> tuple:
        raise UserError("the disk is gone")


class Killed(Draws):
    """Examples that kill the process that makes them."""

    def __init__(self, size: int, by: int) -> None:
        super().__init__(size)
        self.by = by

    def __getitem__(self, index: int) -> tuple:
        os.kill(os.getpid(), self.by)
        return super().__getitem__(index)


class Unsendable(Draws):
    """Batches that a worker can make but not hand over, as when /dev/shm is full."""

    def collate(self, examples: list) -> "Unsendable":
        return self

    def __reduce__(self) -> str:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def steps(start_step: int, count: int, rank: int = 0, **options) -> list:
    order = EpochOrder(num_examples=27, batch_size=12, seed=3)  # two steps an epoch
    batches = train_batches(Draws(27), order, start_step=start_step, seed=3, rank=rank, **options)
    return list(islice(batches, count))


def test_an_epoch_visits_each_example_at_most_once_and_fills_its_batches():
    order = EpochOrder(num_examples=103, batch_size=10, seed=0)
    assert order.steps_per_epoch == 10
    first, second = ([i for step in range(10) for i in order.batch(10 * epoch + step)] for epoch in (0, 1))
    assert len(set(first)) == len(set(second)) == 100
    assert first != second
    assert first != sorted(first)
    assert EpochOrder(103, 10, seed=1).batch(0) != order.batch(0)


def test_a_batch_follows_from_the_step_and_not_from_the_calls_before():
    order = EpochOrder(num_examples=50, batch_size=8, seed=5)
    batches = [order.batch(step) for step in range(20)]
    assert [order.batch(step) for step in reversed(range(20))] == batches[::-1]
    assert EpochOrder(50, 8, seed=5).batch(17) == batches[17]


@pytest.mark.parametrize("groups", [1, 3, 5])
def test_repeats_meet_in_a_batch_but_in_no_group_of_it_and_keep_the_length_of_the_epoch(groups: int):
    order = EpochOrder(num_examples=90, batch_size=30, seed=0, repeats=3, groups=groups)
    batches = [order.batch(step) for step in range(order.steps_per_epoch)]
    assert len({i for batch in batches for i in batch}) == 30
    for batch in batches:
        assert all(batch.count(i) == 3 for i in batch)
        parts = [part for rank in range(groups) for part in shard(batch, rank, groups, 1)]
        assert [len(set(part)) for part in parts] == [30 // groups if groups > 1 else 10] * groups


def test_repeats_are_paired_at_random_also_where_a_batch_cuts_an_example_s_copies_apart():
    order = EpochOrder(num_examples=400, batch_size=32, seed=0, repeats=3, groups=4)
    partners = set()
    for step in range(200):
        batch = order.batch(step)
        for rank in range(4):
            (part,) = shard(batch, rank, 4, 1)
            assert len(set(part)) == 8
            ranks = sorted(part, key=order._permutation.tolist().index)
            partners |= {frozenset((ranks.index(part[i]), ranks.index(part[-1 - i]))) for i in range(4)}
    assert len(partners) == 8 * 7 // 2


def test_an_epoch_of_less_than_a_batch_is_refused():
    with pytest.raises(UserError, match=r"batch_size=10.*9 training examples"):
        EpochOrder(9, 10, seed=0)


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 3)])
@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_the_parts_make_up_the_batch(world: int, micro_batches: int, size: int):
    batch = list(range(size * world * micro_batches))
    parts = [part for rank in range(world) for part in shard(batch, rank, world, micro_batches)]
    assert [len(part) for part in parts] == [size] * (world * micro_batches)
    assert sorted(i for part in parts for i in part) == batch


@pytest.mark.parametrize(("size", "world", "micro_batches"), [(60, 8, 1), (60, 8, 2), (60, 8, 8), (7, 3, 2), (5, 5, 3)])
def test_uneven_parts_make_up_the_batch(size, world, micro_batches):
    batch = list(range(size))
    for cut in (rows, lambda size, *place: shard(batch, *place)):
        of_ranks = [cut(size, rank, world, micro_batches) for rank in range(world)]
        shares = [sum(map(len, parts)) for parts in of_ranks]
        assert sorted(i for parts in of_ranks for part in parts for i in part) == batch
        assert max(shares) - min(shares) <= 1
        for parts in of_ranks:
            assert 1 <= len(parts) <= micro_batches
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert min(map(len, parts)) > 0


def test_a_batch_that_cannot_be_cut_is_refused_by_its_numbers():
    check_batch_size(6, world=2, micro_batches=1)
    check_batch_size(24, world=3, micro_batches=2, mixed=True)
    with pytest.raises(UserError, match=r"batch_size=6 over 2 .*: start 1 or 3, or set training.batch_size=4,"):
        check_batch_size(6, world=2, micro_batches=1, mixed=True)
    with pytest.raises(UserError, match=r"batch_size=4 over 2 processes x 3 .*: set training.batch_size=12,"):
        check_batch_size(4, world=2, micro_batches=3, mixed=True)
    # The call itself raises, before a batch is asked for.
    with pytest.raises(UserError, match="batch_size=12 is less than the 15 processes"):
        train_batches(Draws(27), EpochOrder(27, 12, seed=0), start_step=0, seed=0, world=15)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_and_resuming_change_nothing(num_workers: int):
    reference = steps(0, 7)
    assert steps(0, 7, num_workers=num_workers) == reference
    # Step 3 is in the middle of the second epoch.
    assert steps(3, 4, num_workers=num_workers) == reference[3:]


@pytest.mark.parametrize(("world", "micro_batches"), [(2, 1), (1, 3), (2, 3), (4, 3)])
def test_processes_and_micro_batches_change_nothing(world: int, micro_batches: int):
    reference = [sorted(whole) for (whole,) in steps(1, 3)]
    ranks = [steps(1, 3, rank=rank, world=world, micro_batches=micro_batches) for rank in range(world)]
    for step, whole in enumerate(reference):
        parts = [part for rank in ranks for part in rank[step]]
        assert len(parts) == world * micro_batches
        assert sorted(example for part in parts for example in part) == whole


def test_copies_of_an_example_differ():
    order = EpochOrder(num_examples=12, batch_size=12, seed=0, repeats=3)
    (batch,) = next(train_batches(Draws(12), order, start_step=0, seed=0))
    assert len({index for index, *_ in batch}) == 4
    assert all(len({example[draw] for example in batch}) == 12 for draw in (1, 2, 3))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_callers_generators_go_on_undisturbed(num_workers: int):
    def draw() -> tuple:
        return Draws(1)[0]

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    expected = [draw() for _ in range(3)]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    found = [draw()]
    batches = train_batches(Draws(27), EpochOrder(27, 12, seed=0), start_step=0, seed=0, num_workers=num_workers)
    next(batches)
    found.append(draw())
    list(eval_batches(Draws(9), 4, num_workers=num_workers))
    found.append(draw())
    assert found == expected


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_sees_each_example_once(size: int, world: int, batch_size: int):
    batches = [b for rank in range(world) for b in eval_batches(Draws(size), batch_size, rank=rank, world=world)]
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert sorted(index for batch in batches for index, *_ in batch) == list(range(size))


def test_evaluation_with_workers_keeps_the_order():
    batches = list(eval_batches(Draws(11), 3, num_workers=2))
    assert [index for batch in batches for index, *_ in batch] == list(range(11))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_mistake_in_a_worker_is_still_one_line(num_workers: int):
    with pytest.raises(UserError) as caught:
        next(train_batches(Broken(4), EpochOrder(4, 2, seed=0), start_step=0, seed=0, num_workers=num_workers))
    assert str(caught.value) == "the disk is gone"


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (
            signal.SIGKILL,
            r"a data worker was killed \(Killed\), as happens when memory runs out: lower data.num_workers or free",
        ),
        (signal.SIGBUS, r"/dev/shm is full, .* enlarge it"),
        (signal.SIGSEGV, r"a data worker was killed \(Segmentation fault\)"),
    ],
)
def test_a_worker_that_dies_is_said_in_one_line(by, said):
    """This holds wherever this process is at the time: torch learns of the death by a signal."""
    with pytest.raises(UserError, match=said) as raised:
        list(eval_batches(Killed(8, by), 2, num_workers=1))
    assert len(str(raised.value).splitlines()) == 1


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for():
    with pytest.raises(UserError, match=r"/dev/shm is full"):
        list(eval_batches(Unsendable(8), 2, num_workers=1))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Caught RuntimeError ...: unable to write to file </torch_1>: No space left on device (28)",
            "/dev/shm is full",
        ),
        ("unable to open shared memory object </torch_1> in read-write mode", "/dev/shm is full"),
        ("Caught MemoryError in DataLoader worker process 0.", "a data worker ran out of memory"),
        ("DataLoader worker (pid(s) 12) exited unexpectedly", "a data worker was killed"),
        ("received 0 items of ancdata", "too many open files"),
        ("shape mismatch", None),
    ],
)
def test_what_torch_says_of_workers_is_understood(message, said):
    found = worker_failure(message, 3)
    assert found is None if said is None else said in found
