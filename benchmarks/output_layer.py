"""The output layer: cross-entropy of a large vocabulary, whole or in pieces, and adaptive softmax.

    python -m benchmarks.output_layer [--device cuda] [--quick]

Parts: the loss of hidden states against a tied table, for growing vocabularies, with and without
MultiMax on the scores; and adaptive softmax beside torch's. Gradients are computed for the hidden
states, the table and MultiMax's parameters. "whole" holds all scores at once, "pieces" is
``linear_cross_entropy``. Peers are the whole expression compiled and, on a GPU, Liger's fused
linear cross-entropy.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench import BOTH, Benchmark, Contestant, program
from multimax import reweight
from multimax.output_layer import linear_cross_entropy
from multimax.suite.models.adaptive import AdaptiveEmbedding

VOCABULARIES = (267_744, 32_768, 8192)  # most important first: time may run out
CUTOFFS = (20_000, 40_000, 200_000)  # of Transformer-XL on WikiText-103


def whole(function: reweight.Reweighting, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(hidden: Tensor, table: Tensor) -> Tensor:
        return F.cross_entropy(function.modulate(hidden @ table.T).float(), targets)

    return loss


def contestants(benchmark: Benchmark, targets: Tensor, vocabulary: int) -> list[Contestant]:
    device = benchmark.device
    softmax, multimax = reweight.Softmax(), reweight.MultiMax().to(device)
    parameters = tuple(multimax.parameters())
    modulator = (multimax.ranges, multimax.ts, multimax.order)
    found = [
        Contestant("softmax", "whole", whole(softmax, targets)),
        Contestant("softmax", "pieces", lambda h, t: linear_cross_entropy(h, t, targets)),
        Contestant("multimax", "pieces", lambda h, t: linear_cross_entropy(h, t, targets, modulator), parameters),
        Contestant("softmax", "whole, compiled", benchmark.compile(whole(softmax, targets))),
        Contestant("multimax", "whole, compiled", benchmark.compile(whole(multimax, targets)), parameters),
    ]
    if device.type == "cuda" or len(targets) * vocabulary < 2**26:
        found.append(Contestant("multimax", "whole", whole(multimax, targets), parameters))
    else:
        benchmark.leave_out(f"MultiMax on the whole scores, V={vocabulary}: half a minute for each call")
    if device.type == "cuda":
        try:
            from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

            liger: Any = LigerFusedLinearCrossEntropyFunction
            found.append(Contestant("softmax", "Liger", lambda h, t: liger.apply(h, t, targets)[0]))
        except ImportError as error:
            benchmark.leave_out(f"Liger is not installed ({error})")
    return found


class Torchs(nn.AdaptiveLogSoftmaxWithLoss):
    """torch's adaptive softmax, with a method for the summed loss of hidden states."""

    def loss(self, targets: Tensor, hidden: Tensor) -> Tensor:
        return -self(hidden, targets).output.sum()


def adaptive(benchmark: Benchmark, tokens: int, dim: int, vocabulary: int, cutoffs: tuple[int, ...]) -> None:
    """Adaptive softmax of both libraries, on words whose frequencies follow Zipf's law."""
    device = benchmark.device
    words = torch.arange(1, vocabulary + 1, dtype=torch.float64).reciprocal()
    targets = torch.multinomial(words, tokens, replacement=True).to(device)
    theirs = Torchs(dim, vocabulary, list(cutoffs), div_value=1.0).to(device)
    competitors = [Contestant("softmax", "torch", partial(theirs.loss, targets), tuple(theirs.parameters()))]
    for name in ("softmax", "multimax"):
        embedding = AdaptiveEmbedding(vocabulary, dim, cutoffs).to(device)
        embedding.reset_parameters(0.02)
        function = reweight.create(name).to(device)

        def loss(hidden: Tensor, embedding=embedding, function=function) -> Tensor:
            return torch.stack([part for _, part in embedding.losses(hidden, targets, function, "sum")]).sum()

        competitors.append(Contestant(name, "ours", loss, (*embedding.parameters(), *function.parameters())))
    hidden = torch.randn(tokens, dim, device=device, requires_grad=True)
    benchmark.race(
        "adaptive softmax", f"V={vocabulary}", competitors, [hidden], size=vocabulary, units=tokens, directions=[BOTH]
    )


def run(benchmark: Benchmark) -> None:
    device, quick = benchmark.device, benchmark.quick
    tokens, dim = (16, 8) if quick else (8192, 512) if device.type == "cuda" else (512, 256)
    for vocabulary in (64, 128) if quick else VOCABULARIES:
        targets = torch.randint(vocabulary, (tokens,), device=device)
        tensors = [torch.randn(tokens, dim, device=device), torch.randn(vocabulary, dim, device=device) * dim**-0.5]
        inputs = [tensor.to(benchmark.dtype).requires_grad_() for tensor in tensors]
        case = f"{tokens} tokens of {dim}, V={vocabulary}"
        everyone = contestants(benchmark, targets, vocabulary)
        benchmark.race("loss", case, everyone, inputs, size=vocabulary, units=tokens, directions=[BOTH])
    sizes = (128, (16, 32)) if quick else (VOCABULARIES[0], CUTOFFS)
    adaptive(benchmark, tokens, dim, *sizes)


main = program("output_layer", __doc__, run)

if __name__ == "__main__":
    main()
