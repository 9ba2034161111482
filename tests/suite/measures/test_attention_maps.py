"""What is recorded is what the models compute with."""

from functools import partial
from itertools import chain

import pytest
import torch
from function_kinds import KINDS
from timm.layers import Attention

from multimax import reweight
from multimax.suite.measures.attention_maps import observe_attention, record_attention
from multimax.suite.models.deit import DeiTConfig, create_deit
from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM
from multimax.suite.models.transformer_xl import TransformerXL

LENGTHS = torch.tensor([[5], [3]])
MASK = torch.arange(5) < LENGTHS
SOURCE = torch.randint(3, 13, (2, 5), generator=torch.Generator().manual_seed(0)).where(MASK, 1)
TARGET = torch.randint(3, 11, (2, 4), generator=torch.Generator().manual_seed(1))


def translator(name):
    torch.manual_seed(0)
    site, config = {"name": name}, EncoderDecoderConfig(2, 3, 12, 3, 10, dropout=0.0)
    return EncoderDecoder(config, AttentionSites(site, site, site), site, 13, 11).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_maps_of_a_sentence_pair(name):
    model = translator(name)
    before = model.decode(TARGET, model.encode(SOURCE, MASK), MASK)
    with record_attention(model) as recorded:
        model.decode(TARGET, model.encode(SOURCE, MASK), MASK)
    kinds = {
        "encoder": "encoder.{}.attention",
        "decoder": "decoder.{}.attention",
        "cross": "decoder.{}.cross_attention",
    }
    depth = {"encoder": 2, "decoder": 3, "cross": 3}
    maps = {kind: [recorded[f"{name.format(i)}.branch"][0] for i in range(depth[kind])] for kind, name in kinds.items()}
    assert {kind: [tuple(m.shape) for m in layers] for kind, layers in maps.items()} == {
        "encoder": [(2, 3, 5, 5)] * 2,
        "decoder": [(2, 3, 4, 4)] * 3,
        "cross": [(2, 3, 4, 5)] * 3,
    }
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    for layer in [*maps["encoder"], *maps["cross"]]:
        assert (layer[1, ..., 3:] == 0).all()
    for layer in maps["decoder"]:
        assert (layer[..., future] == 0).all()
    for layer in chain.from_iterable(maps.values()) if reweight.traits(name).sums_to_one else ():
        torch.testing.assert_close(layer.sum(-1), torch.ones_like(layer[..., 0]))
    # The recorded weights, applied to the values, give the output of the attention.
    block = model.encoder[0].attention.branch
    x = model.embed(SOURCE, model.source_embedding)
    values = block.query_key_value(x)[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)
    attended = block.projection((maps["encoder"][0] @ values).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(attended, block(x, MASK[:, None, None]))
    assert torch.equal(model.decode(TARGET, model.encode(SOURCE, MASK), MASK), before)


@torch.no_grad()
@pytest.mark.parametrize("name", ["softmax", "sparsemax"])
def test_every_model_can_be_recorded(name):
    site = {"name": name}
    config = LanguageModelConfig(depth=2, dim=12, num_heads=3, ffn_dim=10, segment_length=6, eval_memory_length=6)
    tiny = DeiTConfig(name="deit_tiny_patch16_224", patch_size=4, embed_dim=12, depth=2, num_heads=3)
    deit = create_deit(tiny, site, {"name": "softmax"}, image_size=8, in_chans=1, num_classes=3).eval()
    tokens, images = torch.randint(17, (2, 6)), torch.randn(2, 1, 8, 8)
    for model, forward, modules, keys in (
        (TransformerLM(config, site, site, 17), lambda m: m.encode(tokens)[0], "blocks.{}", 6),
        (TransformerXL(config, site, site, 17).eval(), lambda m: m.encode(tokens)[0], "blocks.{}.attention", 6),
        (deit, lambda m: m(images), "backbone.blocks.{}.attn", 4),
    ):
        model.eval()
        before = forward(model)
        with record_attention(model) as maps:
            torch.testing.assert_close(forward(model), before)
            forward(model)
        assert torch.equal(forward(model), before)
        assert list(maps) == [modules.format(i) for i in range(2)]
        for calls in maps.values():
            assert [weights.shape for weights in calls] == [(2, 3, keys, keys)] * 2
            torch.testing.assert_close(calls[0].sum(-1), torch.ones(2, 3, keys))
            assert torch.equal(*calls)


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_scores_of_timms_own_softmax(qk_norm):
    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    attend = Attention(12, num_heads=3, qkv_bias=True, qk_norm=qk_norm, norm_layer=norm).double().eval()
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    heard = []
    with observe_attention(attend, lambda *call: heard.append(call)):
        attend(x)
    ((name, weights, scores, mask),) = heard
    assert (name, mask) == ("", None)
    torch.testing.assert_close(scores.softmax(-1), weights)
    query, key, _ = attend.qkv(x).reshape(2, 5, 3, 3, 4).unbind(2)
    query, key = attend.q_norm(query), attend.k_norm(key)
    torch.testing.assert_close(scores, torch.einsum("bqhd,bkhd->bhqk", query, key) / 2)
