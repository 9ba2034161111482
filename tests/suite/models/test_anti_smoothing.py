"""Methods against over-smoothing: equal to their papers' formulas, and as switches of a DeiT."""

import math

import pytest
import torch
from torch.nn import functional as F

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.models.anti_smoothing import (
    AttnScale,
    FeatScale,
    contrastive_loss,
    cosine_loss,
    mix_patches,
    patches_outside,
    random_box,
)
from multimax.suite.models.deit import DeiTConfig, create_deit
from multimax.suite.models.sites import count_parameters
from multimax.suite.tasks.base import Shard
from multimax.suite.tasks.image_classification import ImageClassification

TINY = {"name": "deit_tiny_patch16_224", "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
SOFTMAX, MULTIMAX = {"name": "softmax"}, {"name": "multimax"}


def build(attention=SOFTMAX, label_smoothing=0.0, **overrides):
    torch.manual_seed(0)
    config = DeiTConfig(**{**TINY, **overrides})
    return create_deit(
        config, attention, SOFTMAX, image_size=8, in_chans=3, num_classes=5, label_smoothing=label_smoothing
    )


def test_attn_scale_is_the_papers_filter():
    """Equation 7: A is low-pass plus high-pass, with A_lp = 11^T / n.

    The high-pass part is scaled by omega + 1.
    """
    n, heads = 6, 3
    scores, value = torch.randn(2, heads, n, n).double(), torch.randn(2, heads, n, 4).double()
    weights = scores.softmax(-1)
    module = AttnScale(heads).double()
    with torch.no_grad():
        module.omega.copy_(torch.tensor([0.0, 0.7, -1.3]))
    low = torch.full((n, n), 1 / n).double()
    scaled = low + (module.omega[:, None, None] + 1) * (weights - low)
    torch.testing.assert_close(module(weights @ value, value), scaled @ value)


def test_feat_scale_is_the_papers_reweighting():
    """(1 + s) DC[x] + (1 + t) HC[x] by channel: DC[x] is the mean over tokens, HC[x] the rest."""
    x = torch.randn(2, 6, 4).double()
    module = FeatScale(4).double()
    with torch.no_grad():
        module.s.normal_()
        module.t.normal_()
    constant = torch.ones(6, 6).double() / 6
    direct = constant @ x
    expected = direct @ torch.diag(1 + module.s) + (x - direct) @ torch.diag(1 + module.t)
    torch.testing.assert_close(module(x), expected)


def test_losses_between_patches_beside_plain_loops():
    generator = torch.Generator().manual_seed(0)
    first, last = (torch.randn(2, 5, 3, generator=generator, requires_grad=True) for _ in range(2))
    cosines, contrasts = [], []
    for before, after in zip(first.tolist(), last.tolist(), strict=True):
        pairs = [(a, b) for i, a in enumerate(after) for j, b in enumerate(after) if i != j]
        absolute = [abs(dot(a, b)) / math.hypot(*a) / math.hypot(*b) for a, b in pairs]
        cosines.append(sum(absolute) / len(absolute))
        logs = []
        for i, own in enumerate(before):
            others = [after[j] for j in range(5) if j != i]
            mean = [sum(values) / 4 for values in zip(*others, strict=True)]
            same = math.exp(dot(own, after[i]))
            logs.append(-math.log(same / (same + math.exp(dot(own, mean)))))
        contrasts.append(sum(logs) / 5)
    assert cosine_loss(last).tolist() == pytest.approx(cosines, rel=1e-5)
    assert contrastive_loss(first, last).tolist() == pytest.approx(contrasts, rel=1e-5)
    contrastive_loss(first, last).sum().backward()
    assert first.grad is None, "the first layer is what the last is compared with, and does not follow it"
    assert last.grad is not None


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_mixed_images_are_cut_along_their_patches():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8)
    keeps = patches_outside(torch.tensor([0.0, 0.5, 0.5, 1.0]), 4)
    assert keeps.view(4, 4).tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2
    mixed = mix_patches(images, keeps)
    for i, image in enumerate(mixed[:, 0]):
        assert image[:4, 4:].unique().tolist() == [3 - i]
        image[:4, 4:] = i
        assert image.unique().tolist() == [i]


def test_boxes_are_those_of_cutmix():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.stack([random_box(generator) for _ in range(4000)])
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).mean().item()
    # Along each axis, on average r - r^2 / 4 of a box of side r with a uniform centre is inside.
    # r^2 is uniform.
    assert area == pytest.approx(1 / 2 - 2 / 2 * 2 / 5 / 2 + 1 / 16 / 3, abs=0.02)


def test_off_it_is_the_same_model_and_on_it_starts_as_the_same():
    images = torch.randn(2, 3, 8, 8)
    for attention in (SOFTMAX, MULTIMAX):
        plain, scaled = build(attention), build(attention, attn_scale=True, feat_scale=True)
        assert count_parameters(scaled)["attention"] == count_parameters(plain)["attention"]
        assert count_parameters(scaled)["total"] - count_parameters(plain)["total"] == 2 * (3 + 2 * 24)
        torch.testing.assert_close(scaled.eval()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)
        state = scaled.state_dict()
        assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


def test_every_parameter_of_the_switches_learns():
    model = build(MULTIMAX, attn_scale=True, feat_scale=True, patch_diversification=["cosine", "contrastive", "mixing"])
    model(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), torch.tensor([0.0, 0.0, 0.5, 1.0])).backward()
    for name, parameter in model.named_parameters():
        if {"attn_scale", "feat_scale", "diversification"} & set(name.split(".")):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("class_token", [False, True])
def test_the_whole_loss_beside_its_terms(class_token):
    """Cross-entropy of the mixed image plus three losses.

    The losses are on the first layer and on what the head pools.
    """
    model = build(
        MULTIMAX, 0.1, class_token=class_token, patch_diversification=["cosine", "contrastive", "mixing"]
    ).eval()
    plain = build(MULTIMAX, class_token=class_token).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    images, targets = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 4, 1])
    mixed = images.clone()
    mixed[:, :, :4] = images.flip(0)[:, :, :4]  # two of the four patches
    backbone = plain.backbone
    first = backbone.blocks[0](backbone._pos_embed(backbone.patch_embed(mixed)))
    last = backbone.norm(backbone.blocks[1](first))
    first, last = first[:, int(class_token) :], last[:, int(class_token) :]
    smoothed = {"label_smoothing": 0.1, "reduction": "none"}
    hard = torch.stack([targets.flip(0), targets.flip(0), targets, targets], 1)  # for each patch
    of_patches = F.cross_entropy(model.diversification.head(last).transpose(1, 2), hard, **smoothed).mean(-1)
    scores = plain(mixed)
    of_image = (F.cross_entropy(scores, targets, **smoothed) + F.cross_entropy(scores, targets.flip(0), **smoothed)) / 2
    expected = of_image + cosine_loss(last) + contrastive_loss(first, last) + of_patches
    found = model(images, targets, torch.tensor([0.0, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(found, expected.sum(), rtol=1e-4, atol=1e-4)
    assert torch.equal(model(images), plain(images)), "scores are the classifier's"


def test_mixing_pairs_the_same_images_however_a_batch_is_cut():
    config = typed(compose_configuration(["model.patch_diversification=[mixing]", "training.batch_size=8"]))
    task = ImageClassification(config)
    torch.manual_seed(0)
    model, device = task.build_model().eval(), torch.device("cpu")
    whole, halves = (
        sum(task.loss(model, part, device) for part in next(task.train_batches(3, Shard(micro_batches=parts))))
        for parts in (1, 2)
    )
    torch.testing.assert_close(whole, halves, rtol=1e-4, atol=1e-4)


MISTAKES = {
    "model.patch_diversification=[cosin]": "choose some of cosine, contrastive, mixing",
    "model.patch_diversification=[mixing] data.cutmix=1": "set data.cutmix=0",
    "model.patch_diversification=[mixing] training.batch_size=5": "even number",
    "model.patch_diversification=[contrastive] model.depth=1": "this model has one",
    "model.patch_diversification=[cosine] model.patch_size=8": "this model has one",
    "model.attn_scale=often": "attn_scale",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_what_cannot_be_is_said_in_one_line(overrides):
    with pytest.raises(UserError, match=MISTAKES[overrides]) as caught:
        typed(compose_configuration(overrides.split()))
    assert "\n" not in str(caught.value)
