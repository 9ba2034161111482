"""transformer_lm against torch's layers with the same weights; tests/integrations has fairseq's."""

import pytest
import torch
from function_kinds import KINDS
from torch import nn
from torch.nn import functional as F

from multimax.suite.errors import UserError
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.sites import count_parameters
from multimax.suite.models.transformer_lm import TransformerLM

VOCABULARY = 19
TINY = LanguageModelConfig(
    name="transformer_lm", depth=2, dim=12, num_heads=3, ffn_dim=10, dropout=0.0, segment_length=9, eval_context=4
)


def build(name="softmax", output="softmax"):
    torch.manual_seed(0)
    model = TransformerLM(TINY, {"name": name}, {"name": output}, VOCABULARY).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def tokens(length=9, batch=2):
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def test_equals_torchs_transformer_encoder():
    model = build()
    layer = nn.TransformerEncoderLayer(12, 3, 10, 0.0, F.relu, batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False).double()
    theirs.norm.load_state_dict(model.norm.state_dict())
    for ours, other in zip(model.blocks, theirs.layers, strict=True):
        other.norm1.load_state_dict(ours.attention_norm.state_dict())
        other.norm2.load_state_dict(ours.feed_forward_norm.state_dict())
        other.self_attn.in_proj_weight.data = ours.query_key_value.weight.data
        other.self_attn.in_proj_bias.data = ours.query_key_value.bias.data
        other.self_attn.out_proj.load_state_dict(ours.projection.state_dict())
        other.linear1.load_state_dict(ours.feed_forward[0].state_dict())
        other.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    x = model.embedding(tokens()) * 12**0.5 + model.positions
    mask = torch.ones(9, 9, dtype=torch.bool).triu(1)
    hidden, memory = model.encode(tokens())
    assert memory is None
    torch.testing.assert_close(hidden, theirs(x, mask=mask, is_causal=True))
    torch.testing.assert_close(model.weights(hidden[0]), (hidden[0] @ model.embedding.tables[0].T).softmax(-1))


@pytest.mark.parametrize("name", KINDS)
def test_equals_one_query_at_a_time(name):
    """The golden property of masks: a query's weights are those of its live keys alone."""
    model = build(name)
    hidden, _ = model.encode(tokens())
    for length in range(1, 10):
        alone, _ = model.encode(tokens()[:, :length])
        torch.testing.assert_close(alone[:, -1], hidden[:, length - 1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", KINDS)
def test_no_position_sees_the_future(name):
    model = build(name)
    vectors = model.embedding(tokens()).detach().requires_grad_()
    model.embedding.forward = lambda _: vectors
    hidden, _ = model.encode(tokens())
    for i in range(8):
        (gradient,) = torch.autograd.grad(hidden[:, i].square().sum(), vectors, retain_graph=True)
        assert gradient[:, i + 1 :].abs().max() == 0
        assert (gradient[:, i].abs() > 0).any()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 3, 1]])
def test_piece_by_piece_with_a_cache_is_the_whole_at_once(name, pieces):
    model = build(name)
    whole, _ = model.encode(tokens())
    memory, parts = model.start_memory(2), []
    for piece in tokens().split(pieces, 1):
        hidden, memory = model.encode(piece, memory)
        parts.append(hidden)
    assert memory.shape == (2, 2, 2, 3, 9, 4)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-6)


def test_a_sequence_longer_than_the_model_is_refused():
    with pytest.raises(UserError, match=r"10 tokens is longer .* takes 9 \(model.segment_length\)"):
        build().encode(tokens(10))


def test_the_modulated_logits_are_trained_and_counted():
    """The paper's language model: a SegLU in every layer and one on the output logits."""
    config = LanguageModelConfig("transformer_lm", depth=6, dim=512, num_heads=8, ffn_dim=2048, segment_length=512)
    with torch.device("meta"):
        counts = count_parameters(TransformerLM(config, {"name": "multimax"}, {"name": "multimax"}, 267_744))
    assert (counts["attention"], counts["output"]) == (48, 8)
    assert counts["total"] - 56 == 267_744 * 512 + 6 * 3_152_384 + 1024  # a table, six layers and a norm
    model = build("multimax", "multimax")
    loss, _ = model(tokens(), tokens())
    loss.backward()
    assert model.output.ts.grad.abs().sum() > 0
