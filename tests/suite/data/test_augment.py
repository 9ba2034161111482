from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from multimax.suite.data.augment import ImageBatch, Mix, create_mix, eval_transform, train_transform
from multimax.suite.data.images import ImageData
from multimax.suite.data.loading import seed_generators, shard
from multimax.suite.errors import UserError

CONFIG = ImageData(name="noise", source="files", num_classes=5, image_size=32)
DEIT = replace(
    CONFIG, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.3, random_erasing=0.25, mixup=0.8, cutmix=1.0
)
DIGITS = replace(CONFIG, image_size=8, in_chans=1, train_crop="shift", hflip=0.0, crop_pct=1.0, mean=[0.0], std=[1.0])


def noise(width: int = 50, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("config", [CONFIG, DEIT], ids=["crop and flip", "deit"])
def test_augmentation_follows_from_the_generators(config: ImageData):
    transform = train_transform(config)
    views = []
    for seed in (0, 1, 0):
        seed_generators(seed)
        views.append(transform(noise()))
    assert views[0].shape == (3, 32, 32)
    assert views[0].dtype == torch.float32
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def test_randaugment_survives_its_strongest_magnitude():
    transform = train_transform(replace(CONFIG, auto_augment="rand-m10-n9-p1.0-inc1"))
    for seed in range(20):  # each draws nine of fifteen operations
        seed_generators(seed)
        assert transform(noise()).isfinite().all()


def test_evaluation_crops_the_centre_and_normalises():
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    image.paste((0, 0, 255), (22, 2, 58, 38))  # covers the central .875 of the height
    config = replace(CONFIG, interpolation="bilinear", mean=[0.5, 0.0, 0.0], std=[0.5, 1.0, 2.0])
    expected = torch.tensor([-1.0, 0.0, 0.5]).view(3, 1, 1).expand(3, 32, 32)
    torch.testing.assert_close(eval_transform(config)(image)[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2])


def test_digits_are_shifted_by_at_most_one_pixel_and_evaluated_as_they_are():
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[3, 4] = 255
    image = Image.fromarray(pixels)
    transform = train_transform(DIGITS)
    places = set()
    for seed in range(100):
        seed_generators(seed)
        places.add(tuple(transform(image)[0].nonzero().squeeze().tolist()))
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
    assert torch.equal(eval_transform(DIGITS)(image)[0], torch.tensor(pixels) / 255)


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
        train_transform(replace(CONFIG, **change))


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
    draws = [pair - {1.0} for pair in pairs]  # a pair of one class shows nothing of its draw
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
