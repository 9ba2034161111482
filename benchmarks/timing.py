"""How long several ways to compute the same thing take, and how much memory.

They take turns, so that whatever else the machine does slows them all alike, and each is compared with the first one in
the same turn. The first call of each, which may compile something, is not timed.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """Median and quartiles of the milliseconds over ``repeats`` turns, ``ratio`` to the first one, memory in bytes.

    ``ratio`` is the median over the turns that both took part in, ``peak_bytes`` the most that a call allocates on top
    of what was there before. ``failure`` says in a line why there are no numbers.
    """

    milliseconds: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    repeats: int = 0
    ratio: float = float("nan")
    peak_bytes: int = 0
    failure: str = ""

    def divided_by(self, count: int) -> "Measurement":
        """The measurement of one of ``count`` repetitions that were timed together."""
        times = {name: getattr(self, name) / count for name in ("milliseconds", "low", "high")}
        return replace(self, **times)


def compare(calls: Sequence[Call], device: torch.device, *, seconds: float, repeats: int = 50) -> list[Measurement]:
    """Measure ``calls`` in turn, for about ``seconds`` in all and at most ``repeats`` turns.

    Each call has an equal share of the time. One that has used up its share drops out after three
    turns, or earlier if it has used ten shares. A call that raises is left out, and its
    measurement says why.
    """
    share = seconds / max(1, len(calls))
    results: list[Measurement | None] = [None] * len(calls)
    peaks: dict[int, int] = {}
    slow: dict[int, float] = {}  # seconds of first calls that were slow, maybe because they compiled
    for i, call in enumerate(calls):
        try:
            started = time.perf_counter()
            peaks[i] = peak_memory(call, device)
            if (took := time.perf_counter() - started) > 10 * share:
                slow[i] = took
            else:
                peaks[i] = peak_memory(call, device)
        except Exception as error:
            lines = str(error).strip().splitlines()
            results[i] = Measurement(failure=f"{type(error).__name__}: {lines[0] if lines else ''}"[:160])
            if device.type == "cuda":
                torch.cuda.empty_cache()
    turns: dict[int, dict[int, float]] = {i: {} for i, result in enumerate(results) if result is None}
    for turn in range(repeats):
        # Back and forth, because each finds the caches as the one before left them.
        for i in list(turns) if turn % 2 == 0 else list(reversed(turns)):
            spent = sum(turns[i].values())
            if spent < share or (turn < 3 and spent < 10 * share):
                turns[i][turn] = timed(calls[i], device)
    for i, first_time in slow.items():
        if i in turns and median(turns[i].values()) < first_time / 2:
            peaks[i] = peak_memory(calls[i], device)
    first = turns.get(0, {})
    return [result or summary(turns[i], first, peaks[i]) for i, result in enumerate(results)]


def summary(taken: Mapping[int, float], first: Mapping[int, float], peak: int) -> Measurement:
    values = list(taken.values())
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    ratios = [taken[turn] / first[turn] for turn in taken.keys() & first.keys()]
    ratio = median(ratios) if ratios else float("nan")
    return Measurement(1000 * median(values), 1000 * low, 1000 * high, len(values), ratio, peak)


def timed(call: Call, device: torch.device) -> float:
    """Seconds that one call takes; on a GPU, between two events, after clearing its cache."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # Clearing 2 GiB takes most of a millisecond. That is longer than the host needs to queue a
    # forward and a backward of a few kernels, so launching them is not what is measured.
    memory = torch.cuda.get_device_properties(device).total_memory
    torch.empty(min(2**31, memory // 16), dtype=torch.int8, device=device).zero_()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000


def peak_memory(call: Call, device: torch.device) -> int:
    """The most bytes that torch's allocator holds during a call, on top of what it held before.

    On the CPU these are the allocations that torch's profiler sees, which are the same each time.
    Scratch memory of libraries that have their own allocator is not included.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler complains that there is no GPU
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    results = profile.profiler.kineto_results
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = peak = 0
    for _, size in events:
        held += size
        peak = max(peak, held)
    return peak


def copy_bandwidth(device: torch.device, megabytes: int) -> float:
    """Bytes per second, read plus written, of copying a tensor of ``megabytes`` MiB.

    It should be much larger than the caches.
    """
    source = torch.zeros(megabytes * 2**20, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / median(timed(lambda: target.copy_(source), device) for _ in range(9))
