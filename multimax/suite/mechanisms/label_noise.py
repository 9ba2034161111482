"""Digits with some wrong training labels, and the functions at the output: which of them memorise the errors?

A share of the training labels is changed to another class, for good, so a large enough network fits these too. Label
smoothing (0.1; Szegedy et al. 2016, arXiv 1512.00567) and mixup (Beta(0.2, 0.2); Zhang et al. 2018, arXiv 1710.09412)
are the usual remedies.

Evaluation labels are correct. Seeds that choose learning rates are judged on images held out of the training data, the
others on images that no rate was chosen with.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.reweight import Reweighting
from multimax.suite.measures.calibration import calibration_error
from multimax.suite.mechanisms.problem import FUNCTIONS, Batch, Problem
from multimax.suite.plan import TUNING_FROM

CLASSES = 10
WIDTH = 128
TEST, HELD_OUT = 497, 300  # images
BATCH = 128
SMOOTHING, MIXUP = 0.1, 0.2
LEAST = 1e-6  # smallest weight in the loss, which would be infinite for exact zeros


class NoisyDigits(nn.Module):
    """From images [batch, 64] to weights of the classes [batch, CLASSES]."""

    def __init__(self, reweight: Reweighting, smoothing: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
        )
        self.output, self.smoothing = reweight, smoothing

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.layers(images))

    def loss(self, images: Tensor, target: Tensor) -> Tensor:
        return self.output.loss(self.layers(images), target, label_smoothing=self.smoothing)


class LabelNoiseProblem(Problem):
    """Variants are the percentage of wrong labels, and what is done about them."""

    name = "label_noise"
    variants = ("0", "20", "40", "40_smoothing", "40_mixup")
    measures = ("accuracy", "loss", "calibration_error")
    judge, better = "accuracy@10", "higher"
    test_lengths = (CLASSES,)
    steps = 500

    def functions(self) -> Sequence[str]:
        """All but scalable softmax, which is just a temperature when every row has the same number of classes."""
        return [name for name in FUNCTIONS if name != "scalable_softmax"]

    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        return NoisyDigits(create(), SMOOTHING if variant.endswith("smoothing") else 0.0)

    def training(self, variant: str, seed: int) -> Iterator[Batch]:
        images, labels = split(seed)[0]
        draw = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(labels), generator=draw) < int(variant.partition("_")[0]) / 100
        others = (labels + torch.randint(1, CLASSES, labels.shape, generator=draw)) % CLASSES
        labels = torch.where(wrong, others, labels)
        while True:
            for chosen in torch.randperm(len(labels), generator=draw).split(BATCH)[: len(labels) // BATCH]:
                batch = images[chosen], labels[chosen]
                yield mixed(*batch, draw) if variant.endswith("mixup") else batch

    def testing(self, n: int, seed: int) -> Iterator[Batch]:
        yield split(seed)[1]

    def loss(self, model: nn.Module, items: Tensor, target: Tensor) -> Tensor:
        return cast(NoisyDigits, model).loss(items, target)

    def score(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Accuracy in percent, negative log-likelihood in nats, expected calibration error in percent."""
        weights, target = (torch.cat(of) for of in zip(*batches, strict=True))
        confidence, classes = weights.double().max(-1)
        right = (classes == target).double()
        likelihood = weights.gather(1, target.unsqueeze(1)).clamp(min=LEAST)
        return {
            "accuracy": 100 * right.mean().item(),
            "loss": -likelihood.log().mean().item(),
            "calibration_error": calibration_error(confidence, right),
        }


def mixed(images: Tensor, labels: Tensor, draw: torch.Generator) -> Batch:
    """Each image mixed with another of the batch, all in the same proportion, and class probabilities likewise."""
    gammas = torch._standard_gamma(torch.full((2,), MIXUP), generator=draw)
    share, order = gammas[0] / gammas.sum(), torch.randperm(len(labels), generator=draw)
    target = F.one_hot(labels, CLASSES).float()
    return images.lerp(images[order], share), target.lerp(target[order], share)


@cache
def digits() -> Batch:
    """Images [1797, 64] from 0 to 1 and their classes, in an order without meaning."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(data.data).float()[order] / 16, torch.from_numpy(data.target)[order]


def split(seed: int) -> tuple[Batch, Batch]:
    """The images to train on and those to judge by."""
    images, labels = digits()
    if seed < TUNING_FROM:
        return (images[TEST:], labels[TEST:]), (images[:TEST], labels[:TEST])
    order = TEST + torch.randperm(len(labels) - TEST, generator=torch.Generator().manual_seed(seed))
    train, held = order[HELD_OUT:], order[:HELD_OUT]
    return (images[train], labels[train]), (images[held], labels[held])
