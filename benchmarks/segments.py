"""Functions of segments against PyTorch Geometric's softmax, on the edges of random graphs with eight heads or one.

    python -m benchmarks.segments [--functions multimax ...] [--quick]

Edges are spread evenly over the nodes, 20 per node on average, sorted by node or not; or they
follow a power law.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.bench import Benchmark, Contestant, program
from multimax import reweight

HEADS = (8, 1)


def graphs(nodes: int) -> dict[str, Tensor]:
    """The node of each edge."""
    alike = torch.randint(nodes, (20 * nodes,))
    degrees = (5 * torch.rand(nodes).pow(-1 / 1.5)).long().clamp(max=5 * nodes)
    return {
        "sorted": alike.sort().values,
        "in any order": alike,
        "power law": torch.arange(nodes).repeat_interleave(degrees),
    }


def run(benchmark: Benchmark) -> None:
    from torch_geometric.utils import softmax

    nodes = 50 if benchmark.quick else 10_000
    for part, index in graphs(nodes).items():
        index = index.to(benchmark.device)
        for heads in HEADS:
            contestants = [Contestant("softmax", "PyG", partial(softmax, index=index, num_nodes=nodes))]
            for name in benchmark.arguments.functions:
                module = reweight.create(name).to(benchmark.device)
                call = partial(reweight.segment, module, index=index, num_segments=nodes)
                contestants.append(Contestant(name, "segment", call, list(module.parameters())))
            scores = torch.randn(len(index), heads, device=benchmark.device, requires_grad=True)
            case = f"{len(index)} edges, heads={heads}"
            benchmark.race(part, case, contestants, [scores], size=len(index), units=len(index))


main = program("segments", __doc__, run)

if __name__ == "__main__":
    main()
