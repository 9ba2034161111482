"""The encoder-decoder against torch's layers on the same weights, and what holds for every function."""

import math

import pytest
import torch
from function_kinds import KINDS
from torch import nn
from torch.nn import functional as F

from multimax import reweight
from multimax.suite.errors import UserError
from multimax.suite.models.encoder_decoder import PAD, AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.models.sites import count_parameters

LENGTHS = torch.tensor([6, 2, 4])
MASK = torch.arange(6) < LENGTHS[:, None]
GENERATOR = torch.Generator().manual_seed(1)
SOURCE = torch.randint(3, 13, (3, 6), generator=GENERATOR).where(MASK, PAD)
TARGET = torch.randint(3, 11, (3, 7), generator=GENERATOR)
TINY = {"encoder_depth": 2, "decoder_depth": 2, "dim": 12, "num_heads": 3, "ffn_dim": 10, "dropout": 0.0}


def build(name="softmax", *, spread=0.4, sites=None, **options):
    torch.manual_seed(0)
    site, config = {"name": name}, EncoderDecoderConfig(**TINY | options)
    model = EncoderDecoder(config, sites or AttentionSites(site, site, site), site, 13, 11).double()
    if spread:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=spread)
    return model


def hidden_states(model, source=SOURCE, mask=MASK, target=TARGET):
    return model.decode(target, model.encode(source, mask), mask)


def copy_attention(ours, theirs):
    """Copy our attention's weights into ``nn.MultiheadAttention``."""
    named = dict(ours.named_parameters())
    for kind in ("weight", "bias"):
        parts = [
            named[f"{part}.{kind}"] for part in ("query_key_value", "query", "key_value") if f"{part}.{kind}" in named
        ]
        getattr(theirs, f"in_proj_{kind}").data = torch.cat(parts).data
    theirs.out_proj.load_state_dict(ours.projection.state_dict())


def copy_layer(ours, theirs):
    copy_attention(ours.attention.branch, theirs.self_attn)
    sublayers = [ours.attention, ours.feed_forward]
    if hasattr(ours, "cross_attention"):
        copy_attention(ours.cross_attention.branch, theirs.multihead_attn)
        sublayers.insert(1, ours.cross_attention)
    for i, sublayer in enumerate(sublayers, 1):
        getattr(theirs, f"norm{i}").load_state_dict(sublayer.norm.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward.branch[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.branch[3].state_dict())


def positions(length):
    """The sinusoids written out independently: position 2 + i, sines before cosines."""
    rates = [10000 ** (-k / 5) for k in range(6)]
    return torch.tensor(
        [[f((2 + i) * rate) for f in (math.sin, math.cos) for rate in rates] for i in range(length)]
    ).double()


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [False, True])
def test_equals_torchs_transformer(pre_norm):
    model = build(pre_norm=pre_norm)
    sizes = {"dropout": 0.0, "batch_first": True, "norm_first": pre_norm}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(12, 3, 10, **sizes), 2, nn.LayerNorm(12) if pre_norm else None, False
    ).double()
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(12, 3, 10, **sizes), 2, nn.LayerNorm(12) if pre_norm else None
    ).double()
    for ours, theirs in zip([*model.encoder, *model.decoder], [*encoder.layers, *decoder.layers], strict=True):
        copy_layer(ours, theirs)
    if pre_norm:
        encoder.norm.load_state_dict(model.encoder_norm.state_dict())
        decoder.norm.load_state_dict(model.decoder_norm.state_dict())

    embedded = [
        F.embedding(tokens, table.weight) * 12**0.5 + positions(tokens.shape[1])
        for tokens, table in ((SOURCE, model.source_embedding), (TARGET, model.target_embedding))
    ]
    memory = encoder(embedded[0], src_key_padding_mask=~MASK)
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    hidden = decoder(embedded[1], memory, tgt_mask=future, memory_key_padding_mask=~MASK)
    torch.testing.assert_close(hidden_states(model), hidden, rtol=1e-5, atol=1e-5)  # float32 sinusoids
    expected = (hidden @ model.target_embedding.weight.T).softmax(-1)
    torch.testing.assert_close(model.weights(hidden), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_a_sentence_in_a_padded_batch_is_the_sentence_alone(name):
    model = build(name)
    hidden = hidden_states(model)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = hidden_states(model, SOURCE[i : i + 1, :length], MASK[i : i + 1, :length], TARGET[i : i + 1])
        torch.testing.assert_close(alone[0], hidden[i], rtol=1e-6, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_no_position_sees_the_future(name):
    model = build(name)
    hidden = hidden_states(model)
    for i in range(1, 7):
        other = TARGET.clone()
        other[:, i:] = 3 + (other[:, i:] - 2) % 8
        changed = (hidden_states(model, target=other) - hidden).abs().amax(-1)
        assert (changed[:, :i] == 0).all()
        assert (changed[:, i] > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_hypotheses_in_a_cache_are_the_whole_at_once(name):
    """Two hypotheses that part, swap and merge, over so many positions that the cache must grow."""
    model = build(name)
    cache = model.start_cache(model.encode(SOURCE, MASK), MASK, 2)
    generator = torch.Generator().manual_seed(2)
    history = torch.empty(3, 2, 0, dtype=torch.long)
    for _ in range(19):
        tokens = torch.randint(3, 11, (3, 2, 1), generator=generator)
        history = torch.cat([history, tokens], -1)
        hidden = model.step(tokens.squeeze(-1), cache)
        for j in range(2):
            torch.testing.assert_close(hidden[:, j], hidden_states(model, target=history[:, j])[:, -1])
        parents = torch.randint(2, (3, 2), generator=generator)
        cache.reorder(parents)
        history = history.gather(1, parents[..., None].expand_as(history))
    cache.keep([2, 0])
    hidden = model.step(torch.full((2, 2), 5), cache)
    whole = torch.cat([history, torch.full((3, 2, 1), 5)], -1)[:, 1]
    torch.testing.assert_close(hidden[:, 1], hidden_states(model, target=whole)[[2, 0], -1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["multimax", "sparsemax"])
def test_the_released_model_is_softmax_in_cross_attention_and_with_a_cache(name):
    site, softmax = {"name": name}, {"name": "softmax"}
    released = build(name, as_released=True)
    trained, decoded = (
        build(name, sites=AttentionSites(*sites)) for sites in ((site, site, softmax), (site, softmax, softmax))
    )
    for other in (trained, decoded):
        assert not other.load_state_dict(released.state_dict(), strict=False).missing_keys
    assert torch.equal(hidden_states(released), hidden_states(trained))
    cache = released.start_cache(released.encode(SOURCE, MASK), MASK, 1)
    steps = [released.step(tokens, cache) for tokens in TARGET.split(1, 1)]
    torch.testing.assert_close(torch.cat(steps, 1), hidden_states(decoded))
    assert (torch.cat(steps, 1) - hidden_states(released)).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in KINDS if reweight.get(name).has_loss])
def test_every_parameter_is_trained(name):
    """DistributedDataParallel waits for the gradient of every one."""
    model = build(name)
    loss = model(SOURCE, MASK, TARGET, TARGET, label_smoothing=0.1 if reweight.get(name).soft_targets else 0.0)
    loss.backward()
    assert loss > 0
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without


def test_the_loss_is_the_smoothed_cross_entropy_of_the_tokens_that_are_there():
    model = build()
    targets = TARGET.masked_fill(torch.arange(7) >= torch.tensor([[7], [3], [5]]), -100)
    log_weights = model.weights(hidden_states(model)).log()
    expected = 0.0
    for row, targets_of_row in zip(log_weights, targets, strict=True):
        for logs, target in zip(row, targets_of_row, strict=True):
            if target >= 0:
                expected -= 0.9 * logs[target] + 0.1 * logs.mean()
    torch.testing.assert_close(model(SOURCE, MASK, TARGET, targets, label_smoothing=0.1), expected)
    # fairseq's loss with smoothing eps is ours with eps V / (V - 1).
    eps, ours = 0.1, 0.1 * 11 / 10
    fairseq = sum(
        -(1 - eps) * logs[target] - eps / 10 * (logs.sum() - logs[target])
        for row, targets_of_row in zip(log_weights, targets, strict=True)
        for logs, target in zip(row, targets_of_row, strict=True)
        if target >= 0
    )
    torch.testing.assert_close(model(SOURCE, MASK, TARGET, targets, label_smoothing=ours), fairseq)


@pytest.mark.parametrize(
    ("share", "source", "target", "total"),
    [
        ("decoder", 8848, 6632, 39_469_056),  # as fairseq prints for IWSLT14 with joint BPE
        ("all", 10_152, 10_152, 36_741_120),
    ],
)
def test_the_paper_s_model_has_the_size_of_fairseq_s(share, source, target, total):
    site = {"name": "multimax"}
    with torch.device("meta"):
        config = EncoderDecoderConfig(share_embeddings=share)
        counts = count_parameters(EncoderDecoder(config, AttentionSites(site, site, site), site, source, target))
    assert counts == {"total": total + 152, "attention": 144, "output": 8}


def test_runs_that_share_a_seed_start_from_the_same_weights():
    softmax, multimax = build(spread=0).state_dict(), build("multimax", spread=0).state_dict()
    for key, value in softmax.items():
        assert torch.equal(value, multimax[key]), key


@pytest.mark.parametrize("name", ["softmax", "multimax"])
def test_compiles_without_a_graph_break(name):
    model = build(name, encoder_depth=1, decoder_depth=1)
    arguments = (SOURCE, MASK, TARGET, TARGET, 0.1)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(*arguments), model(*arguments))


def test_what_does_not_fit_is_refused_in_one_line():
    site = {"name": "softmax"}
    with pytest.raises(UserError, match="13 source and 11 target tokens"):
        build(share_embeddings="all")
    with pytest.raises(UserError, match="6 tokens is longer than the 5"):
        hidden_states(build(max_length=5))
    fingerprinted = [
        EncoderDecoder(
            EncoderDecoderConfig(1, 1, 4, 1, 4), AttentionSites(site, site, site), site, 5, 5, torch.tensor([n])
        )
        for n in (1, 2)
    ]
    with pytest.raises(UserError, match="another vocabulary"):
        fingerprinted[0].load_state_dict(fingerprinted[1].state_dict())
