"""python -m multimax.suite.figures maps, rollout and gradcam: what image classifiers make of one image."""

import argparse
import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from multimax.suite.data.augment import EvalTransform, ImageBatch, Normalise
from multimax.suite.data.images import ImageData
from multimax.suite.data.pixels import Picture, UnreadableImage
from multimax.suite.engine.open import OpenRun
from multimax.suite.errors import UserError
from multimax.suite.figures.commands import chosen, compare, parse, runs_parser
from multimax.suite.figures.panels import panel
from multimax.suite.measures.attention_maps import record_attention
from multimax.suite.measures.grad_cam import grad_cam
from multimax.suite.measures.rollout import attention_rollout, patch_relevance

Find = Callable[[OpenRun, Tensor], dict[str, Any]]


def maps(arguments: Sequence[str]) -> None:
    """Attention of one patch of an image to all patches, by layer.

    Runs of task=deit are shown side by side.
    """
    parser = image_parser(maps)
    parser.add_argument("--query", help="number of the patch, row by row from 0, or class; default: the middle")
    parser.add_argument("--layers", help="numbers from 0, such as 0,4,9; default: all")
    parser.add_argument("--head", help="number from 0; default: the mean over all heads")
    parsed = parse(parser, arguments)

    def find(run: OpenRun, images: Tensor) -> dict[str, Any]:
        backbone = run.model.backbone
        query, first = chosen_query(parsed.query, run), backbone.num_prefix_tokens
        layers = attention_layers(run, images)
        heads = chosen(parsed.head, "--head", "heads", layers[0].shape[1], run)
        panels = []
        for i in chosen(parsed.layers, "--layers", "layers", len(layers), run):
            row = layers[i][0, heads, 0 if query is None else first + query, first:].mean(0)
            panels.append(panel(f"layer {i}", row.view(backbone.patch_embed.grid_size)))
        return {"query": query, "rows": [{"label": "", "panels": panels}]}

    compare_on_image(parsed, "maps", find)


def rollout(arguments: Sequence[str]) -> None:
    """Attention rollout (arXiv 2005.00928) through all layers for one image.

    Runs of task=deit are shown side by side.
    """

    def find(run: OpenRun, images: Tensor) -> dict[str, Any]:
        backbone = run.model.backbone
        flow = attention_rollout(attention_layers(run, images))
        patches = patch_relevance(flow, backbone.num_prefix_tokens, backbone.global_pool)
        return one_panel("", patches.view(backbone.patch_embed.grid_size))

    compare_on_image(parse(image_parser(rollout), arguments), "rollout", find)


def gradcam(arguments: Sequence[str]) -> None:
    """Grad-CAM (arXiv 1610.02391) of the predicted class for one image.

    Runs of task=deit are shown side by side.
    """

    def find(run: OpenRun, images: Tensor) -> dict[str, Any]:
        with torch.no_grad(), run.autocast():
            weights, classes = run.model.output(run.model(images)).max(-1)
        with run.autocast():
            (values,) = grad_cam(run.model, images, classes)
        name = run.task.val_dataset.classes[classes.item()]
        return one_panel(f"{name} {weights.item():.2f}", values)

    compare_on_image(parse(image_parser(gradcam), arguments), "gradcam", find)


def image_parser(command: Callable[[Sequence[str]], None]) -> argparse.ArgumentParser:
    parser = runs_parser(command)
    parser.add_argument(
        "--image", type=Path, required=True, metavar="FILE", help="as the runs' validation images are read"
    )
    return parser


def compare_on_image(arguments: argparse.Namespace, kind: str, find: Find) -> None:
    """Run ``find`` on each run with the image preprocessed for its model, [1, channels, height, width]."""

    def find_in(run: OpenRun) -> dict[str, Any]:
        image, shown = read_image(arguments.image, run.task.config.data)
        given = hashlib.sha256(arguments.image.read_bytes()).hexdigest()
        return {"input": given, "image": shown} | find(run, image[None].to(run.device))

    compare(arguments, "deit", kind, find_in)


def read_image(path: Path, data: ImageData) -> tuple[Tensor, str]:
    """The image preprocessed as in validation, [channels, height, width], and a PNG in base64.

    The PNG is of the same image before normalisation.

    Raises UserError if the file is not an image.
    """
    try:
        pixels, _ = EvalTransform(data)(Picture(path.read_bytes(), data.mode, data.bits))
    except (OSError, UnreadableImage) as error:
        raise UserError(f"--image {path} cannot be read: {error}") from None
    batch = Normalise(data)(ImageBatch(pixels[None], torch.zeros(1), []), torch.device("cpu"))
    png = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(png, "PNG")
    return batch.images[0], base64.b64encode(png.getvalue()).decode()


@torch.no_grad()
def attention_layers(run: OpenRun, images: Tensor) -> list[Tensor]:
    """Weights [batch, heads, tokens, tokens] of each layer, float32."""
    with record_attention(run.model) as recorded, run.autocast():
        run.model(images)
    return [weights.float() for (weights,) in recorded.values()]


def chosen_query(given: str | None, run: OpenRun) -> int | None:
    """Index of the patch, or None for the class token. Raises UserError if the model does not have it."""
    backbone = run.model.backbone
    rows, columns = backbone.patch_embed.grid_size
    if given == "class":
        if not backbone.num_prefix_tokens:
            raise UserError(f"--query class: the model of {run.path} has no class token; name a patch")
        return None
    if given is None:
        return rows // 2 * columns + columns // 2
    return chosen(given, "--query", "patches", rows * columns, run)[0]


def one_panel(title: str, values: Tensor) -> dict[str, Any]:
    return {"query": None, "rows": [{"label": "", "panels": [panel(title, values)]}]}
