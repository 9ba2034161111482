"""The table of what each function costs DeiT-S: parameters and operations, counted."""

from functools import cache
from typing import Any, cast

import torch

from multimax import reweight
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.measures.cost import matrix_products, operations
from multimax.suite.models.deit import ImageClassifier, create_deit
from multimax.suite.models.sites import count_parameters
from multimax.suite.report.outputs import Output, Row, table
from multimax.suite.tasks.image_classification import Config

IMAGE_SIZE, CLASSES = 224, 1000
COLUMNS = ("function", "in attention", "at the output", "operations per score", "above softmax", "share")


def cost_table() -> Output:
    """The cost of one forward pass of the paper's DeiT-S on one image."""
    softmax = deit("softmax", "cpu").eval()
    products = matrix_products(softmax, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    layers, patches = len(softmax.backbone.blocks), softmax.backbone.patch_embed.num_patches
    heads = cast(Any, softmax.backbone.blocks[0]).attn.num_heads
    example = torch.randn(heads, patches, patches, generator=torch.Generator().manual_seed(0))
    scores, of_softmax = example.numel() * layers, per_score("softmax", example)
    rows: list[Row] = []
    for name in reweight.available():
        counts, own = count_parameters(deit(name, "meta")), per_score(name, example)
        row = {"function": name, "in attention": str(counts["attention"]), "at the output": str(counts["output"])}
        # A function that iterates to convergence does not do the same on other scores or machines.
        if own == per_score(name, 10 * example):
            extra = (own - of_softmax) * scores
            row |= {
                "operations per score": f"{own:.0f}",
                "above softmax": f"{extra / 1e6:.1f} M",
                "share": f"{extra / products:.2%}",
            }
        rows.append(row)
    text = f"""# What each function costs DeiT-S, counted

Made by `python -m multimax.suite.report` from the models. Parameters that `reweight=NAME` adds, and the operations on
the {scores / 1e6:.2f} million attention scores of one image, in a forward pass that is written out and not fused;
empty where a function iterates until it converges, so that the number is not always the same. *Share*: of the
{products / 1e9:.2f} G operations of the model's matrix products, two for each multiplication and addition.

This is no measure of time: a fused kernel does all of it in one reading of the scores.

"""
    return table("cost", text, COLUMNS, rows)


def per_score(name: str, scores: torch.Tensor) -> float:
    return operations(reweight.create(name, num_heads=len(scores)), scores) / scores.numel()


def deit(name: str, device: str) -> ImageClassifier:
    """The paper's DeiT-S with the function ``name`` in its attention and, if possible, at its output."""
    attention, output = {"name": name}, {"name": reweight.at_the_output(name)}
    with torch.device(device):
        return create_deit(paper().model, attention, output, image_size=IMAGE_SIZE, in_chans=3, num_classes=CLASSES)


@cache
def paper() -> Config:
    return cast(Config, typed(compose_configuration(["task=deit", "scale=paper"])))
