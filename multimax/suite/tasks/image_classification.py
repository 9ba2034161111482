"""Image classification: a DeiT on digits, Imagenette or ImageNet-1K, scored by top-1 accuracy in percent."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from multimax.suite.config import RunConfig
from multimax.suite.data.augment import ImageBatch, Normalise, create_mix
from multimax.suite.data.fingerprint import Fingerprint
from multimax.suite.data.image_dataset import ImageDataset
from multimax.suite.data.image_sources import ImageSource
from multimax.suite.data.images import (
    ImageData,
    check_bits,
    empty_classes,
    fingerprint,
    held_out,
    not_decoded,
    open_images,
    unreadable,
)
from multimax.suite.data.left_out import LeftOut, checked, record
from multimax.suite.data.loading import EpochOrder, Stream, check_batch_size, eval_batches, random_seeds, train_batches
from multimax.suite.errors import UserError
from multimax.suite.models.anti_smoothing import LOSSES, random_box
from multimax.suite.models.deit import DeiTConfig, ImageClassifier, create_deit
from multimax.suite.plugins import build, has_target, require
from multimax.suite.tasks.base import Sample, Shard, Task, require_same

logger = logging.getLogger(__name__)


@dataclass
class Config(RunConfig):
    model: DeiTConfig
    data: ImageData

    def check(self, world: int) -> None:
        super().check(world)
        model, data, training = self.model, self.data, self.training
        if not has_target(model) and not timm.is_model(model.name):
            raise UserError(
                f"model.name={model.name}: timm has no such model; DeiT's are deit_tiny_patch16_224, "
                "deit_small_patch16_224 and deit_base_patch16_224"
            )
        if model.pool == "token" and not model.class_token:
            raise UserError("model.pool=token needs model.class_token=true")
        if unknown := set(model.patch_diversification) - set(LOSSES):
            raise UserError(f"model.patch_diversification={min(unknown)}: choose some of {', '.join(LOSSES)}")
        mixing = "mixing" in model.patch_diversification
        if mixing and data.cutmix:
            raise UserError(
                "model.patch_diversification with mixing mixes images along their patches, whose classes it has to "
                "know: set data.cutmix=0, which mixes them across"
            )
        if has_target(model):
            if model.patch_diversification:
                raise UserError("model.patch_diversification is of timm's vision transformers, not of a model._target_")
        else:
            self.check_model()
        if data.mixup or data.cutmix or mixing:
            self.check_loss(soft_targets=True)
            if data.mix_group and data.mix_group % 2:
                raise UserError(f"data.mix_group={data.mix_group} is odd, but mixup and cutmix mix pairs")
            check_batch_size(training.batch_size, world, self.micro_batches(world), mixed=True)
        repeats, group = data.repeated_augmentation, data.mix_group or training.batch_size
        if repeats > 1 and (data.mixup or data.cutmix) and (training.batch_size % group or self.groups < repeats):
            raise UserError(
                f"data.repeated_augmentation={repeats}: copies of an image share no draw of mixup or cutmix, but "
                f"data.mix_group={data.mix_group} does not divide training.batch_size={training.batch_size} into "
                f"{repeats} groups or more: change one of the three"
            )

    @property
    def groups(self) -> int:
        """Number of groups in a global batch with their own draws of mixup and cutmix."""
        mixed = self.data.mixup > 0 or self.data.cutmix > 0
        return self.training.batch_size // self.data.mix_group if mixed and self.data.mix_group else 1

    def readers(self) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
        yield from super().readers()
        data, hub = self.data, ("hub", "hub_config")
        of_files = ("root", "where", "cache_dir", "train_split", "eval_split", "image_column", "label_column", *hub)
        yield "data.source=files", data.source == "files", tuple(f"data.{name}" for name in of_files)
        yield "data.held_out", data.held_out > 0, ("data.held_out_seed",)
        yield "data.root=null", data.root is None, tuple(f"data.{name}" for name in hub)
        yield "data.mixup or data.cutmix", data.mixup > 0 or data.cutmix > 0, ("data.mix_group",)
        yield from self.unread("model")
        yield "data.auto_augment=null", data.auto_augment is None, ("data.color_jitter",)

    def check_model(self) -> None:
        """Raise UserError for a model that timm cannot build, by building it without memory for weights."""
        try:
            with torch.device("meta"):
                backbone = build_model(self, self.data.num_classes or 2, drawn=False).backbone
        except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f"model: timm cannot build {self.model.name} like this: {error}") from None
        for side in backbone.patch_embed.patch_size:
            if self.data.image_size % side:
                raise UserError(f"data.image_size={self.data.image_size} is not a multiple of the patch size {side}")
        if self.model.patch_diversification and min(backbone.patch_embed.num_patches, len(backbone.blocks)) < 2:
            raise UserError("model.patch_diversification compares two patches, and two layers: this model has one")


def build_model(config: Config, num_classes: int, drawn: bool = True) -> ImageClassifier:
    """The classifier; a user's own backbone maps images to scores [batch, num_classes]."""
    if has_target(config.model):
        data = config.data
        sizes = {"image_size": data.image_size, "in_chans": data.in_chans, "num_classes": num_classes}
        made = build("model", config.model, offered={**sizes, "attention": config.reweight.attention})
        backbone = require("model", made, nn.Module)
        return ImageClassifier(backbone, config.reweight.output, config.training.label_smoothing)
    return create_deit(
        config.model,
        config.reweight.attention,
        config.reweight.output,
        image_size=config.data.image_size,
        in_chans=config.data.in_chans,
        num_classes=num_classes,
        label_smoothing=config.training.label_smoothing,
        drawn=drawn,
    )


class Part(NamedTuple):
    """A micro-batch: the ``part``-th of the global batch of ``step``."""

    images: ImageBatch
    step: int
    part: int


class ImageClassification(Task):
    metric = "top1"
    higher_is_better = True
    unit = "images"

    def __init__(self, config: Config):
        self.config: Config = config
        train_images, val_images = open_images(config.data)
        self.train_dataset = ImageDataset(train_images, config.data, training=True)
        self.val_dataset = ImageDataset(val_images, config.data, training=False)
        self.val_dataset.order_classes(train_images.classes)
        self.normalise = Normalise(config.data)
        self.mix = create_mix(replace(config.data, num_classes=len(train_images.classes)))
        repeats, groups = config.data.repeated_augmentation, config.groups
        self.order = EpochOrder(len(train_images), config.training.batch_size, config.seed, repeats, groups)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.skipped: set[str] = set()

    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.train_dataset.source, self.val_dataset.source)

    @cached_property
    def left_out(self) -> list[LeftOut]:  # type: ignore[override]  # decoding images takes seconds
        train, val = self.train_dataset.source, self.val_dataset.source
        apart = [held_out(train)] if self.config.data.held_out else []
        around = [train.beside] if train.beside else []
        found = checked([*apart, *around], self.config.data.max_left_out)
        return [*found, *self.look_at({"training": train, "validation": val})]

    def scored_left_out(self) -> list[LeftOut]:
        return self.look_at({"scored": self.val_dataset.source})

    def look_at(self, sources: dict[str, ImageSource]) -> list[LeftOut]:
        """What is left out of ``sources``. Raises UserError if it is too much, or if the pixels' scale is unknown."""
        files = [
            LeftOut(f"files among the {split} images", len(source) + source.other_files.total(), source.other_files)
            for split, source in sources.items()
        ]
        empty = [empty_classes(source, split) for split, source in sources.items()]
        unseen = [not_decoded(source, split) for split, source in sources.items()]
        broken, brightest = zip(*(unreadable(source, split) for split, source in sources.items()), strict=True)
        check_bits(self.config.data, max(brightest))
        return checked([*files, *empty, *unseen, *broken], self.config.data.max_left_out)

    def match(self, trained: Fingerprint) -> None:
        here, there = self.val_dataset.source.classes, trained.get("classes", self.val_dataset.source.classes)
        require_same({"classes": sorted(here)}, {"classes": sorted(there)}, ["classes"])
        for dataset in (self.train_dataset, self.val_dataset):
            dataset.order_classes(list(there))

    def same_outputs(self, trained: Fingerprint) -> bool:
        return trained.get("classes") == self.val_dataset.classes

    def output_order(self, trained: Fingerprint) -> list[int] | None:
        here, there = self.val_dataset.classes, trained.get("classes")
        if not isinstance(there, list) or here == there or sorted(here) != sorted(there):
            return None
        return [there.index(name) for name in here]

    def build_model(self) -> ImageClassifier:
        return build_model(self.config, len(self.val_dataset.classes))

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[list[Any]]:
        batches = train_batches(
            self.train_dataset,
            self.order,
            start_step=start_step,
            seed=self.config.seed,
            rank=shard.rank,
            world=shard.world,
            micro_batches=shard.micro_batches,
            num_workers=self.config.data.num_workers,
        )
        for step, micro in enumerate(batches, start_step):
            for batch in micro:
                self.note_skipped(batch)
            yield [Part(batch, step, shard.rank * shard.micro_batches + i) for i, batch in enumerate(micro)]

    def weight(self, batch: Part) -> int:
        return len(batch.images.targets)

    def loss(self, model: nn.Module, batch: Part, device: torch.device) -> Tensor:
        images = self.normalise(batch.images, device)
        if self.mix:  # here, not in train_batches, because the device is faster at it
            images = self.mix(images, batch.step, self.config.seed, batch.part)
        if "mixing" not in self.config.model.patch_diversification:
            return model(images.images, images.targets)
        (seed,) = random_seeds(Stream.PATCH_MIX, self.config.seed, batch.step, count=1)  # one box for a global batch
        box = random_box(torch.Generator().manual_seed(seed))
        return model(images.images, images.targets, box.to(device))

    def evaluate(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float]:
        assert isinstance(model, ImageClassifier)
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        training = self.config.training
        batches = eval_batches(
            self.val_dataset,
            math.ceil(training.batch_size / (shard.world * shard.micro_batches)),
            rank=shard.rank,
            world=shard.world,
            num_workers=self.config.data.num_workers,
        )
        for batch in batches:
            self.note_skipped(batch)
            if not len(batch.targets):
                continue
            images, targets, *_ = self.normalise(batch, device)
            scores = model(images)
            loss = model.output.loss(scores, targets, reduction="sum")
            ranked = model.output.modulate(scores).topk(min(5, scores.shape[-1])).indices
            hits = (ranked == targets[:, None]).double()
            sums += torch.stack([loss.double(), hits[:, 0].sum(), hits.sum(), hits.new_tensor(len(targets))])
        return dict(zip(("loss", "top1", "top5", "images"), sums.tolist(), strict=True))

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        images = sums["images"]
        if not images:
            raise UserError("not one validation image could be read")
        return {
            "top1": 100 * sums["top1"] / images,
            "top5": 100 * sums["top5"] / images,
            "loss": sums["loss"] / images,
            "images": images,
        }

    def few_images(self, device: torch.device) -> ImageBatch:
        """The readable ones of eight images spread over the validation data, which may be ordered by class."""
        count = len(self.val_dataset)
        indices = dict.fromkeys(i * count // 8 for i in range(8))
        return self.normalise(self.val_dataset.collate([self.val_dataset[i] for i in indices]), device)

    def probe(self, model: nn.Module, device: torch.device) -> None:
        assert isinstance(model, ImageClassifier)
        images = self.few_images(device).images
        if len(images):
            model.backbone(images)

    def samples(self, model: nn.Module, device: torch.device) -> list[Sample]:
        assert isinstance(model, ImageClassifier)
        images, targets, *_ = self.few_images(device)
        if not len(images):
            return []
        weights, classes = model.output(model.backbone(images).float()).max(-1)
        mean, std = (
            images.new_tensor(values)[:, None, None] for values in (self.config.data.mean, self.config.data.std)
        )
        pixels = (images * std + mean).clamp(0, 1)
        return [
            Sample(f"class {target}: {predicted} with {weight:.3f}", picture)
            for target, predicted, weight, picture in zip(
                targets.tolist(), classes.tolist(), weights.tolist(), pixels, strict=True
            )
        ]

    def note_skipped(self, batch: ImageBatch) -> None:
        """Say which images cannot be read. Raises UserError if there are too many, as not all are checked before."""
        total = len(self.train_dataset) + len(self.val_dataset)
        for image in batch.skipped:
            if image not in self.skipped:
                self.skipped.add(image)
                logger.warning("left out, image %d that cannot be read: %s", len(self.skipped), image)
        most = self.config.data.max_left_out
        if len(self.skipped) > most * total:
            raise UserError(
                f"{len(self.skipped):,} of {total:,} images cannot be read, the last is {batch.skipped[-1]}: that is "
                f"more than the share data.max_left_out={most:g}"
            )

    def examples(self, step: int) -> list[int]:
        return self.order.batch(step)

    def summary(self) -> dict[str, Any]:
        return {"left_out": record(self.left_out), "unreadable_images": sorted(self.skipped)}


create = ImageClassification
