"""Transformer-XL against the paper's formula, written out for one query and distance at a time."""

import math

import pytest
import torch
from function_kinds import KINDS
from torch.nn import functional as F

from multimax import reweight
from multimax.suite.models.adaptive import AdaptiveEmbedding
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.sites import count_parameters
from multimax.suite.models.transformer_xl import Reach, TransformerXL, align_distances
from tests.suite.models.drawn import assert_drawn

VOCABULARY = 23
TINY = LanguageModelConfig(
    depth=2, dim=12, num_heads=3, ffn_dim=10, dropout=0.0, segment_length=5, memory_length=6, cutoffs=[8, 15], div_val=2
)


def build(name="softmax", output="softmax", seed=0, **reach):
    torch.manual_seed(seed)
    model = TransformerXL(TINY, {"name": name}, {"name": output}, VOCABULARY).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.train_reach = model.eval_reach = Reach(**{"memory_length": 6, **reach})
    return model


def tokens(length, batch=2, seed=1):
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def distance_vector(distance, dim):
    angles = [distance / 10000 ** (2 * i / dim) for i in range(dim // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def embed(model, token):
    cluster = sum(token >= cutoff for cutoff in TINY.cutoffs)
    start = [0, *TINY.cutoffs][cluster]
    embedding = model.embedding
    return embedding.tables[cluster][token - start] @ embedding.projections[cluster] * TINY.dim**0.5


def written_out(model, sequence, memory):
    """Hidden states [length, dim] of one sequence after memory [depth, past, dim].

    Also returns what entered each layer.
    """
    heads, size, reach = TINY.num_heads, TINY.dim // TINY.num_heads, model.eval_reach
    x = torch.stack([embed(model, token) for token in sequence.tolist()])
    entered = []
    for block, before in zip(model.blocks, memory, strict=True):
        entered.append(x)
        everything = torch.cat([before, x])
        attend, rows = block.attention, []
        key_weight, value_weight = attend.key_value.weight.chunk(2)
        for i in range(len(before), len(everything)):
            seen = range(max(0, i - reach.memory_length + 1) if reach.same_length else 0, i + 1)
            query = (attend.query.weight @ everything[i]).view(heads, size)
            scores = []
            for j in seen:
                distance = i - j if reach.clamp_length is None else min(i - j, reach.clamp_length)
                key = (key_weight @ everything[j]).view(heads, size)
                relative = (attend.position.weight @ distance_vector(distance, TINY.dim)).view(heads, size)
                content = ((query + model.content_bias) * key).sum(-1)
                position = ((query + model.position_bias) * relative).sum(-1)
                scores.append((content + position) / math.sqrt(size))
            weights = attend.reweight(torch.stack(scores, -1)[:, None])[:, 0]
            values = torch.stack([(value_weight @ everything[j]).view(heads, size) for j in seen], 1)
            rows.append(attend.projection.weight @ torch.einsum("hk,hkd->hd", weights, values).flatten())
        x = norm(x + torch.stack(rows), block.attention_norm)
        first, second = block.feed_forward[0], block.feed_forward[3]
        hidden = (x @ first.weight.T + first.bias).clamp(min=0)
        x = norm(x + hidden @ second.weight.T + second.bias, block.feed_forward_norm)
    return x, entered


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("reach", [{}, {"clamp_length": 3}, {"same_length": True, "memory_length": 4}])
def test_equals_the_formula_of_the_paper_in_values_and_gradients(name, reach):
    model = build(name, **reach)
    first, second = tokens(5), tokens(4, seed=2)
    _, memory = model.encode(first)
    hidden, _ = model.encode(second, memory)
    direction = torch.randn(hidden.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((hidden * direction).sum(), list(model.blocks.parameters()))

    expected = torch.stack([written_out(model, row, memory[:, b])[0] for b, row in enumerate(second)])
    torch.testing.assert_close(hidden, expected)
    by_formula = torch.autograd.grad((expected * direction).sum(), list(model.blocks.parameters()))
    torch.testing.assert_close(gradients, by_formula, rtol=1e-5, atol=1e-6)

    for b, row in enumerate(first):  # the memory is what entered each layer, cut to its length
        _, entered = written_out(model, row, memory[:, b, :0])
        torch.testing.assert_close(memory[:, b], torch.stack(entered)[:, -model.eval_reach.memory_length :])


def test_memory_takes_no_gradient_and_keeps_its_length():
    model = build()
    memory = None
    for seed, length in enumerate((5, 6, 6, 6)):
        _, memory = model.encode(tokens(5, seed=seed), memory)
        assert memory.shape == (2, 2, length, 12)
        assert not memory.requires_grad
    model.train_reach = Reach(0)
    _, memory = model.encode(tokens(5), memory)
    assert memory.shape[2] == 0


@pytest.mark.parametrize("name", KINDS)
def test_no_position_sees_the_future(name):
    model = build(name)
    vectors = model.embedding(tokens(7)).detach().requires_grad_()
    model.embedding.forward = lambda _: vectors
    hidden, _ = model.encode(tokens(7))
    for i in range(7):
        (gradient,) = torch.autograd.grad(hidden[:, i].sum(), vectors, retain_graph=True)
        assert gradient[:, i + 1 :].abs().max() == 0 if i < 6 else True
        assert (gradient[:, i].abs() > 0).any()


def test_evsoftmax_under_a_causal_mask_is_not_softmax():
    """An ev-softmax whose mean includes -inf is softmax under another name."""
    softmax, evsoftmax = build("softmax"), build("evsoftmax")
    assert all(torch.equal(a, b) for a, b in zip(softmax.parameters(), evsoftmax.parameters(), strict=True))
    difference = softmax.encode(tokens(7))[0] - evsoftmax.encode(tokens(7))[0]
    assert difference[:, 0].abs().max() < 1e-12  # the first token attends only to itself
    assert difference[:, 2:].abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 4, 2]])
def test_piece_by_piece_with_memory_is_the_whole_at_once(name, pieces):
    model = build(name, memory_length=12)
    sequence = tokens(12)
    whole, _ = model.encode(sequence)
    memory, parts = model.start_memory(2), []
    for piece in sequence.split(pieces, 1):
        hidden, memory = model.encode(piece, memory)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-6)


def test_distances_are_aligned_with_keys():
    by_distance = torch.arange(4, -1, -1.0).expand(3, 5)  # five keys: distances 4 to 0
    aligned = align_distances(by_distance)
    for i in range(3):
        for j in range(i + 3):
            assert aligned[i, j] == i + 2 - j


@pytest.mark.parametrize("name", [n for n in KINDS if reweight.get(n).has_loss])
@pytest.mark.parametrize(("cutoffs", "div_val"), [([], 1), ([8, 15], 1), ([8, 15], 2)])
def test_the_output_is_a_distribution_and_its_loss_is_of_it(name, cutoffs, div_val):
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(VOCABULARY, 12, cutoffs, div_val).double()
    embedding.reset_parameters(0.5)
    model = build(output=name)
    model.embedding = embedding
    hidden, targets = torch.randn(VOCABULARY, 12, dtype=torch.float64), torch.arange(VOCABULARY)
    weights = model.weights(hidden)
    torch.testing.assert_close(weights.sum(-1), torch.ones(VOCABULARY, dtype=torch.float64))
    assert (weights >= 0).all()
    torch.testing.assert_close(model.target_weights(hidden, targets), weights.diagonal())
    losses = model.losses(hidden, targets)
    if not reweight.get(name).can_be_zero:
        torch.testing.assert_close(losses, -weights.diagonal().log())
    assert (losses >= 0).all()


def test_the_adaptive_output_is_torchs():
    torch.manual_seed(0)
    ours = AdaptiveEmbedding(VOCABULARY, 12, [8, 15])
    ours.reset_parameters(0.5)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(12, VOCABULARY, [8, 15], div_value=1.0, head_bias=True)
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat([ours.tables[0][:8], ours.tail_vectors]))
        theirs.head.bias.zero_()
        for i, tail in enumerate(theirs.tail):
            tail[0].weight.copy_(torch.eye(12))
            tail[1].weight.copy_(ours.tables[0][ours.edges[i + 1] : ours.edges[i + 2]])
    hidden = torch.randn(9, 12)
    torch.testing.assert_close(ours.weights(hidden, reweight.create("softmax")).log(), theirs.log_prob(hidden))


def test_input_and_output_share_their_weights():
    embedding = AdaptiveEmbedding(VOCABULARY, 12, [8, 15])
    embedding.reset_parameters(0.5)
    assert torch.equal(embedding(torch.arange(VOCABULARY)), embedding.tables[0])
    assert torch.equal(embedding.scores(2, torch.eye(12)), F.linear(torch.eye(12), embedding.tables[0][15:]))


def test_the_published_number_of_parameters():
    """fairseq's port counts 151.1M on the 267,735 words of WikiText-103."""
    config = LanguageModelConfig(memory_length=150, cutoffs=[20000, 40000, 200000])
    with torch.device("meta"):
        model = TransformerXL(config, {"name": "multimax"}, {"name": "multimax"}, 267_735)
    counts = count_parameters(model)
    assert counts["total"] == pytest.approx(151.1e6, rel=0.01)
    assert (counts["attention"], counts["output"]) == (16 * 8, 8)


@pytest.mark.parametrize("name", KINDS)
def test_runs_that_share_a_seed_start_from_the_same_weights(name):
    torch.manual_seed(0)
    state = TransformerXL(TINY, {"name": name}, {"name": "softmax"}, VOCABULARY).state_dict()
    torch.manual_seed(0)
    reference = TransformerXL(TINY, {"name": "softmax"}, {"name": "softmax"}, VOCABULARY).state_dict()
    assert all(torch.equal(state[key], value) for key, value in reference.items())


@pytest.mark.parametrize("div_val", [1, 2])
def test_initial_weights_are_those_of_the_authors_code(div_val):
    """``weights_init`` in train.py of kimiyoung/transformer-xl.

    Its flags are --init_std .02 and --proj_init_std .01.
    """
    torch.manual_seed(0)
    config = LanguageModelConfig(depth=4, dim=128, num_heads=4, ffn_dim=256, cutoffs=[100, 200], div_val=div_val)
    for name, parameter in TransformerXL(config, {"name": "softmax"}, {"name": "softmax"}, 500).named_parameters():
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        std = 0.01 if "projections" in name else 0.02
        if name.endswith(".bias") or name == "embedding.tail_bias":
            std = 0.0
        assert_drawn(name, parameter, mean, std)
