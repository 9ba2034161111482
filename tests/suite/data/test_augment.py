import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from multimax.suite.data.augment import (
    EvalTransform,
    ImageBatch,
    Mix,
    Normalise,
    TrainTransform,
    create_mix,
    draw_erased,
)
from multimax.suite.data.images import ImageData
from multimax.suite.data.loading import seed_generators, shard
from multimax.suite.data.pixels import Picture, Plain
from multimax.suite.data.row_shifts import OPERATIONS, WEIGHTS
from multimax.suite.errors import UserError

CONFIG = ImageData(name="noise", source="files", num_classes=5, image_size=32)
DEIT = replace(
    CONFIG, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.3, random_erasing=0.25, mixup=0.8, cutmix=1.0
)
DIGITS = replace(CONFIG, image_size=8, in_chans=1, train_crop="shift", hflip=0.0, crop_pct=1.0, mean=[0.0], std=[1.0])


def noise(width: int = 50, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def view(config: ImageData, image: Image.Image, seed: int = 0, transform: type = TrainTransform) -> torch.Tensor:
    """What the model sees of an image, [C, H, W]."""
    seed_generators(seed)
    pixels, erased = transform(config)(Plain(image))
    batch = ImageBatch(pixels[None], torch.zeros(1), [], {0: erased} if erased else {})
    return Normalise(config)(batch, torch.device("cpu")).images[0]


@pytest.mark.parametrize("config", [CONFIG, DEIT], ids=["crop and flip", "deit"])
def test_augmentation_follows_from_the_generators(config: ImageData):
    views = [view(config, noise(), seed) for seed in (0, 1, 0)]
    assert views[0].shape == (3, 32, 32)
    assert views[0].dtype == torch.float32
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth image with some grain, what resizing and half-size decoding are made for."""
    generator = np.random.default_rng(seed)
    blobs = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((pixels + generator.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"auto_augment": None},
        {"auto_augment": "augmix-m5-w4-d2"},
        {"auto_augment": None, "interpolation": "lanczos"},
        {"in_chans": 1},
    ],
    ids=str,
)
def test_an_image_is_what_timm_makes_of_it_with_the_same_generators(change: dict, monkeypatch):
    config = replace(DEIT, image_size=64, random_erasing=0.0, **change)
    if config.in_chans == 1:
        config = replace(config, mean=[0.5], std=[0.25])
    image = photograph(160, 120).convert(config.mode)
    ours = [view(config, image, seed) for seed in range(60)]
    for name, operation in OPERATIONS.items():
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, operation.original)
    transform = create_transform(
        (config.in_chans, 64, 64),
        is_training=True,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
    levels = []
    for seed, mine in enumerate(ours):
        seed_generators(seed)
        levels.append((transform(image) - mine).abs().mean().item() * 255 * config.std[0])
    # Equal up to rounding, but posterising and the like turn a difference of one level into a large
    # one at some pixels.
    assert np.median(levels) < 0.1
    assert max(levels) < 2


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("resample", WEIGHTS)
def test_moving_rows_is_pillows_affine_transform(name: str, resample: int):
    image = photograph(50, 40)
    for amount in (0.0, 0.27, -0.3, 0.002, -0.6):
        amount *= 40 if name in ("TranslateX", "TranslateY") else 1
        given = {"fillcolor": (124, 116, 104), "resample": resample}
        ours, theirs = (
            np.asarray(f(image, amount, **given)).astype(int) for f in (OPERATIONS[name], OPERATIONS[name].original)
        )
        assert np.abs(ours - theirs).max() <= 1


def test_the_crop_is_timms_and_a_jpeg_decoded_for_it_alone_looks_the_same():
    file = io.BytesIO()
    photograph(1300, 900).save(file, "JPEG", quality=92)
    config = replace(CONFIG, image_size=64)
    reduced = []
    for seed in range(12):
        picture = Picture(file.getvalue(), "RGB")
        seed_generators(seed)
        found = TrainTransform(config)(picture)[0].float()
        reduced.append(picture._image.size[0] < 1300)
        seed_generators(seed)
        whole = TrainTransform(config)(Plain(Image.open(file)))[0].float()
        # The bound is in levels: a shift within a pixel of the reduced image, on blobs of ten.
        assert (found - whole).abs().mean() < 3
    assert any(reduced)


def test_erased_boxes_are_timms_and_hold_standard_normal_noise():
    whole, erasing, noise = torch.ones(3, 64, 48), RandomErasing(0.25, mode="const", device="cpu"), []
    for seed in range(400):
        seed_generators(seed)
        erased = draw_erased(whole.permute(1, 2, 0), 0.25)
        seed_generators(seed)
        theirs = erasing(whole.clone())
        ours = whole.clone()
        if erased:
            top, left, height, width, _ = erased
            ours[:, top : top + height, left : left + width] = 0
            batch = ImageBatch(torch.zeros(1, 64, 48, 3, dtype=torch.uint8), torch.zeros(1), [], {0: erased})
            noise.append(Normalise(CONFIG)(batch, torch.device("cpu")).images[0][ours == 0])
        assert torch.equal(ours, theirs)
    assert 60 < len(noise) < 140
    pixels = torch.cat(noise)
    assert abs(pixels.mean()) < 5 / len(pixels) ** 0.5
    assert abs(pixels.std() - 1) < 5 / (2 * len(pixels)) ** 0.5
    assert len({one[0].item() for one in noise}) == len(noise)


def test_what_is_loaded_becomes_what_timm_normalises():
    pixels = np.array(noise(32, 32))
    batch = ImageBatch(torch.tensor(pixels)[None], torch.zeros(1), [])
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CONFIG.mean, CONFIG.std)])(pixels)
    assert torch.equal(Normalise(CONFIG)(batch, torch.device("cpu")).images[0], expected)


def test_randaugment_survives_its_strongest_magnitude():
    config = replace(CONFIG, auto_augment="rand-m10-n9-p1.0-inc1")
    for seed in range(20):  # each draws nine of fifteen operations
        assert view(config, noise(), seed).isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1)])
def test_a_picture_of_a_pixel_or_two_has_crops(size: tuple[int, int]):
    for seed in range(20):
        assert view(CONFIG, noise(*size), seed).isfinite().all()


def test_evaluation_crops_the_centre_and_normalises():
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    image.paste((0, 0, 255), (22, 2, 58, 38))  # covers the central .875 of the height
    config = replace(CONFIG, interpolation="bilinear", mean=[0.5, 0.0, 0.0], std=[0.5, 1.0, 2.0])
    expected = torch.tensor([-1.0, 0.0, 0.5]).view(3, 1, 1).expand(3, 32, 32)
    torch.testing.assert_close(view(config, image, transform=EvalTransform)[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2])


def test_digits_are_shifted_by_at_most_one_pixel_and_evaluated_as_they_are():
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[3, 4] = 255
    image = Image.fromarray(pixels)
    places = {tuple(view(DIGITS, image, seed)[0].nonzero().squeeze().tolist()) for seed in range(100)}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
    assert torch.equal(view(DIGITS, image, transform=EvalTransform)[0], torch.tensor(pixels) / 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_crop": "centre"}, "neither rrc nor shift"),
        ({"interpolation": "cubic"}, "choose one of .*bicubic"),
        ({"auto_augment": "random"}, "data.auto_augment=random"),
        ({"auto_augment": "rand-x9"}, "data.auto_augment=rand-x9"),
    ],
)
def test_a_mistyped_option_is_refused(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        TrainTransform(replace(CONFIG, **change))


def batch(size: int) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 16, 16, generator=generator)
    return ImageBatch(images, torch.randint(5, (size,), generator=generator), [])


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 1), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("mix_group", [None, 24, 12, 8, 4])
@pytest.mark.parametrize("alphas", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_mixing_the_parts_is_mixing_the_whole(world: int, micro_batches: int, mix_group: int | None, alphas: dict):
    mix = Mix(replace(CONFIG, mix_group=mix_group, **alphas))
    for step in range(4):
        whole = mix(batch(24), step, seed=1)
        assert not torch.equal(whole.images, batch(24).images)
        for rank in range(world):
            for i, part in enumerate(shard(range(24), rank, world, micro_batches)):
                fresh = batch(24)
                local = ImageBatch(fresh.images[part], fresh.targets[part], [])
                mixed = mix(local, step, seed=1, part=rank * micro_batches + i)
                assert torch.equal(mixed.images, whole.images[part])
                assert torch.equal(mixed.targets, whole.targets[part])


def test_a_group_shares_a_draw_and_the_next_has_its_own():
    mix = Mix(replace(CONFIG, mixup=0.8, mix_group=8))
    fresh = batch(24)._replace(targets=torch.arange(24) % 5)
    shares = mix(fresh, step=0, seed=1).targets.amax(1)
    pairs = [{round(max(shares[i].item(), 1 - shares[i].item()), 5) for i in range(g, g + 4)} for g in (0, 4, 8)]
    draws = [pair - {1.0} for pair in pairs]  # a pair of one class does not show its draw
    assert all(len(draw) == 1 for draw in draws)
    assert len(set.union(*draws)) == 3


def test_smoothing_in_the_loss_is_timms_smoothing_of_mixed_targets():
    scores = torch.randn(8, 5)
    mix = Mix(DEIT)
    ours = torch.nn.functional.cross_entropy(scores, mix(batch(8), step=0, seed=0).targets, label_smoothing=0.1)
    mix._mixup.label_smoothing = 0.1
    mixed_loss = torch.nn.functional.cross_entropy(scores, mix(batch(8), step=0, seed=0).targets)
    torch.testing.assert_close(ours, mixed_loss)


def test_mixing_is_drawn_anew_each_step_and_leaves_the_generators_alone():
    mix = create_mix(DEIT)
    assert mix is not None
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    draws = {tuple(mix(batch(2), step, seed).targets[0].tolist()) for step in range(5) for seed in range(2)}
    assert len(draws) == 10
    assert np.random.rand() == expected  # noqa: NPY002


def test_nothing_is_mixed_unless_asked():
    assert create_mix(CONFIG) is None
