"""Measures of rows against plain loops, and statistics over batches against all at once."""

import math

import pytest
import torch

from multimax import reweight
from multimax.suite.measures.attention_maps import record_attention
from multimax.suite.measures.attention_rows import MEASURES, row_measures
from multimax.suite.measures.streaming import MIDDLE, SCORE_EDGES, WEIGHT_EDGES, attention_statistics, count
from multimax.suite.models.deit import DeiTConfig, create_deit
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM


def gini(values):
    """The index's other definition.

    Half the mean absolute difference over all ordered pairs, relative to the mean.
    """
    n = len(values)
    return sum(abs(a - b) for a in values for b in values) / (2 * n * sum(values))


@pytest.mark.parametrize("name", ["softmax", "sparsemax"])
def test_measures_of_a_row(name):
    scores = 3 * torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[3] = False
    weights = reweight.create(name)(scores, mask)
    measured = row_measures(weights, scores.masked_fill(~mask, torch.nan), mask)
    assert tuple(measured) == MEASURES
    for i in range(3):
        row = weights[i][mask[i]].tolist()
        assert measured["entropy"][i] == pytest.approx(-sum(p * math.log(p) for p in row if p), rel=1e-5)
        assert measured["support"][i] == sum(p > 0 for p in row)
        assert measured["gini"][i] == pytest.approx(gini(row), rel=1e-5)
        alone = row_measures(weights[i][mask[i]], scores[i][mask[i]])
        for key in MEASURES:
            torch.testing.assert_close(alone[key], measured[key][i], equal_nan=True)
    assert all(values[3].isnan() for values in measured.values())


def test_gini_of_the_extremes():
    rows = torch.stack([torch.full((5,), 0.2), torch.eye(5)[2]])
    torch.testing.assert_close(row_measures(rows, rows)["gini"], torch.tensor([0.0, 0.8]), atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["softmax", "multimax"])
def test_batches_give_what_everything_at_once_gives(name):
    """For a language model with a causal mask, and DeiT with timm's softmax and with ours."""
    torch.manual_seed(0)
    site = {"name": name}
    config = LanguageModelConfig(depth=2, dim=12, num_heads=3, ffn_dim=10, segment_length=6)
    language = TransformerLM(config, site, site, 17).eval()
    tiny = DeiTConfig(name="deit_tiny_patch16_224", patch_size=4, embed_dim=12, depth=2, num_heads=3)
    deit = create_deit(tiny, site, site, image_size=8, in_chans=1, num_classes=3).eval()
    tokens, images = torch.randint(17, (6, 6)), torch.randn(6, 1, 8, 8)
    for model, forward, entries in (
        (language, lambda batch: language.encode(tokens[batch]), 6 * 3 * 21),
        (deit, lambda batch: deit(images[batch]), 6 * 3 * 16),
    ):
        with attention_statistics(model) as sites:
            for batch in (slice(0, 1), slice(1, 4), slice(4, 6)):
                forward(batch)
        with attention_statistics(model) as whole, record_attention(model) as maps:
            forward(slice(None))
        assert list(sites) == list(maps)
        for at, site_statistics in sites.items():
            assert site_statistics.means.shape == (len(MEASURES), 3)
            torch.testing.assert_close(site_statistics.means, whole[at].means, equal_nan=True)
            assert site_statistics.weights.sum() + site_statistics.tiny == entries
            assert site_statistics.scores.sum() == entries
            support = (maps[at][0] > 0).sum(-1).double().mean((0, 2))
            torch.testing.assert_close(site_statistics.means[MEASURES.index("support")], support)


def test_every_value_is_counted_once():
    values = torch.tensor([-100.0, -30.0, -29.9, 0.1, 29.9, 100.0])
    counts = count(values, SCORE_EDGES)
    assert (counts[:2].sum(), counts[300:302].sum(), counts[-2:].sum(), counts.sum()) == (3, 1, 2, 6)
    assert len(count(torch.zeros(0), WEIGHT_EDGES)) == len(WEIGHT_EDGES) - 1


def test_the_middle_holds_the_share_that_it_says():
    scores = torch.randn(1, 2, 50, 400, generator=torch.Generator().manual_seed(0)) * 3 + 1
    statistics = site_of(scores)
    expected = scores.flatten().quantile(torch.tensor([(1 - MIDDLE) / 2, (1 + MIDDLE) / 2]))
    torch.testing.assert_close(torch.tensor(statistics.middle()), expected, atol=0.11, rtol=0)


def test_scores_beyond_the_bins_leave_a_middle():
    statistics = site_of(torch.tensor([-100.0, 100.0, 50.0, -40.0]).view(1, 1, 2, 2))
    assert statistics.middle() == (-30, 30)


def site_of(scores):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.reweight = reweight.create("softmax")

    model = Attention()
    with attention_statistics(model) as sites:
        model.reweight(scores)
    (found,) = sites.values()
    return found
