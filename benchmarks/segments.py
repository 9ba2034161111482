"""Functions of segments against PyTorch Geometric's softmax, forward and backward, as ratios of times in one run.

    python -m benchmarks.segments [--nodes 10000] [--degree 20] [--heads 8] [--rounds 30]

Each round calls every contestant once, so that what else the machine does falls on all; a ratio is that of the medians.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.utils import softmax

from multimax import reweight

FUNCTIONS = ("softmax", "sparsemax", "entmax15", "evsoftmax", "multimax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--degree", type=int, default=20, help="mean number of edges into a node")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    for row in ratios(arguments.nodes, arguments.degree, arguments.heads, arguments.rounds):
        print("{:<12} forward {:6.2f}   forward and backward {:6.2f}".format(*row))


def ratios(nodes: int, degree: int, heads: int, rounds: int) -> list[tuple[str, float, float]]:
    """For each function the time of its forward, and of that with its backward, over PyG's softmax's."""
    torch.manual_seed(0)
    index = torch.randint(nodes, (nodes * degree,)).sort().values
    scores = torch.randn(len(index), heads, requires_grad=True)
    grad = torch.randn_like(scores)
    ways: dict[str, Callable[[], Tensor]] = {"PyG": lambda: softmax(scores, index, num_nodes=nodes)}
    for name in FUNCTIONS:
        module = reweight.create(name)
        ways[name] = lambda module=module: reweight.segment(module, scores, index, num_segments=nodes)  # type: ignore[misc]
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            with torch.no_grad():
                way()
            forward = time.perf_counter()
            torch.autograd.grad(way(), scores, grad)
            if round_:  # the first is to warm up
                times[name, "forward"].append(forward - begun)
                times[name, "both"].append(time.perf_counter() - forward)
    medians = {key: statistics.median(of) for key, of in times.items()}
    of_softmax = medians["PyG", "forward"], medians["PyG", "both"]
    return [(n, medians[n, "forward"] / of_softmax[0], medians[n, "both"] / of_softmax[1]) for n in FUNCTIONS]


if __name__ == "__main__":
    main()
