"""Patch similarity and MAD against plain loops over pairs, and batches against all at once."""

import math

import pytest
import torch

from multimax.suite.measures.oversmoothing import mean_average_distance, patch_similarity, token_smoothing
from multimax.suite.models.deit import DeiTConfig, create_deit
from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder, EncoderDecoderConfig


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def similarity_by_pairs(tokens):
    pairs = [(i, j) for i in range(len(tokens)) for j in range(len(tokens)) if i != j]
    return sum(cosine(tokens[i], tokens[j]) for i, j in pairs) / len(pairs)


def mad_as_published(tokens):
    """Chen et al.'s equations 1 to 4 with every pair a target: means over nonzero distances."""
    distances = [[0.0 if i == j else 1 - cosine(a, b) for j, b in enumerate(tokens)] for i, a in enumerate(tokens)]
    means = [sum(row) / sum(d > 0 for d in row) for row in distances]
    return sum(means) / sum(mean > 0 for mean in means)


def test_measures_beside_plain_loops():
    tokens = torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    for row, similarity, mad in zip(tokens, patch_similarity(tokens), mean_average_distance(tokens), strict=True):
        assert similarity.item() == pytest.approx(similarity_by_pairs(row.tolist()), rel=1e-12)
        assert mad.item() == pytest.approx(mad_as_published(row.tolist()), rel=1e-12)


@pytest.mark.parametrize(
    ("tokens", "similarity"),
    [
        # One direction, whatever the lengths.
        (torch.ones(4, 3) * torch.tensor([[1.0], [2.0], [0.5], [7.0]]), 1.0),
        (torch.eye(5), 0.0),  # at right angles
        (torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), -1.0),  # opposite: the sign counts
    ],
)
def test_closed_cases(tokens, similarity):
    assert patch_similarity(tokens[None]).item() == pytest.approx(similarity, abs=1e-12)
    assert mean_average_distance(tokens[None]).item() == pytest.approx(1 - similarity, abs=1e-12)


def test_what_the_mask_hides_does_not_count():
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] + [False] * 5])
    four, one = patch_similarity(tokens, mask)
    assert four == pytest.approx(patch_similarity(tokens[:1, :4]).item())
    assert one.isnan(), "of one token there is no pair"


@torch.no_grad()
@pytest.mark.parametrize("name", ["softmax", "multimax"])
@pytest.mark.parametrize("class_token", [False, True])
def test_a_deits_layers_over_batches(name, class_token):
    """Each layer against a forward pass written out with the layer's own modules."""
    torch.manual_seed(0)
    config = DeiTConfig(
        name="deit_tiny_patch16_224", patch_size=4, embed_dim=12, depth=2, num_heads=3, class_token=class_token
    )
    model = create_deit(config, {"name": name}, {"name": name}, image_size=8, in_chans=1, num_classes=3).eval()
    images = torch.randn(6, 1, 8, 8)
    with token_smoothing(model) as layers:
        for batch in (slice(0, 1), slice(1, 4), slice(4, 6)):
            model(images[batch])
    x = model.backbone._pos_embed(model.backbone.patch_embed(images))
    for layer, block in zip(layers, model.backbone.blocks, strict=True):
        attended = block.attn(block.norm1(x))
        x = x + attended
        x = x + block.mlp(block.norm2(x))
        patches = slice(int(class_token), None)
        expected = sum(similarity_by_pairs(image.tolist()) for image in attended[:, patches]) / 6
        assert layer.inputs == 6
        assert layer.means["patch_similarity"] == pytest.approx(expected, rel=1e-4)
        expected = sum(mad_as_published(image.tolist()) for image in x[:, patches]) / 6
        assert layer.means["mad"] == pytest.approx(expected, rel=1e-4)
    assert not model.backbone.blocks[0]._forward_hooks, "nothing stays behind"


@torch.no_grad()
def test_an_encoders_padding_does_not_count():
    torch.manual_seed(0)
    config = EncoderDecoderConfig(encoder_depth=2, decoder_depth=1, dim=8, num_heads=2, ffn_dim=8)
    site = {"name": "multimax"}
    model = EncoderDecoder(config, AttentionSites(site, site, site), site, 11, 11).eval()
    source = torch.randint(3, 11, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    with token_smoothing(model) as alone:
        model.encode(source[:, :4], mask[:, :4])
    mask[:, 4:] = False
    with token_smoothing(model) as padded:
        model.encode(source, mask)
    for one, other in zip(alone, padded, strict=True):
        assert other.means == pytest.approx(one.means, rel=1e-4)
    assert len(alone) == 2


def test_a_model_without_such_layers_has_none():
    with token_smoothing(torch.nn.Linear(2, 2)) as layers:
        assert layers == []
