"""Converted models of transformers: converted in part, saved and loaded, generating, and what they refuse."""

import pytest
import torch

import multimax
from scripts.convert_table import FAMILIES

transformers = pytest.importorskip("transformers")


@pytest.fixture
def gpt2():
    return next(family for family in FAMILIES if family.name == "GPT2LMHeadModel").build()


@pytest.fixture
def ids():
    return torch.randint(3, 64, (2, 8))


def test_modules_that_share_a_configuration_are_converted_one_by_one(gpt2, ids):
    expected = gpt2(ids).logits
    first, second = (block.attn for block in gpt2.transformer.h)
    assert first.config is second.config
    conversion = multimax.convert(gpt2, "sparsemax", where="*.h.0.attn")
    assert conversion.left == (("transformer.h.1.attn", "where does not match it"),)
    assert second.config is gpt2.config
    assert second.config._attn_implementation == "sdpa"
    assert not torch.equal(gpt2(ids).logits, expected)
    assert not hasattr(gpt2.config, "reweight")  # no single class makes a model converted in part
    conversion.undo()
    assert first.config is gpt2.config
    assert torch.equal(gpt2(ids).logits, expected)


def test_saved_and_loaded_it_is_the_same_model(gpt2, ids, tmp_path):
    from multimax.integrations.transformers import from_pretrained

    conversion = multimax.convert(gpt2, "multimax", order=1)
    expected = gpt2(ids).logits
    gpt2.save_pretrained(tmp_path)
    loaded = from_pretrained(transformers.AutoModelForCausalLM, str(tmp_path)).eval()
    assert torch.equal(loaded(ids).logits, expected)
    assert loaded.state_dict().keys() == gpt2.state_dict().keys()
    conversion.undo()
    gpt2.save_pretrained(tmp_path / "stock")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "stock")


def test_generating_with_a_cache_is_generating_without(gpt2, ids):
    multimax.convert(gpt2, "multimax")
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    assert torch.equal(gpt2.generate(ids, **options), gpt2.generate(ids, **options, use_cache=False))


def test_twice_is_refused_as_is_a_model_of_ours(gpt2):
    from multimax.integrations.transformers import reweighted

    multimax.convert(gpt2, "multimax")
    ours = reweighted(transformers.GPT2LMHeadModel, "multimax")(gpt2.config)
    for model in (gpt2, ours):
        with pytest.raises(ValueError, match="has been converted already"):
            multimax.convert(model, "sparsemax")


def test_masks_of_other_attention_are_refused(gpt2):
    gpt2.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="its configuration names flex_attention"):
        multimax.convert(gpt2, "multimax")


def test_what_only_their_attention_heeds_is_an_obstacle():
    """Blocks of keys chosen by an indexer, which only "sdpa" gets as a mask, and sinks that differ by query."""
    from transformers.models.inkling2.modeling_inkling2 import Inkling2SlidingAttention, Inkling2TextConfig
    from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLAttention, MiniMaxM3VLTextConfig

    for cls, config, name in (
        (MiniMaxM3VLAttention, MiniMaxM3VLTextConfig(), "block_indices"),
        (Inkling2SlidingAttention, Inkling2TextConfig(), "sinks"),
    ):
        config._attn_implementation = "eager"
        with torch.device("meta"):
            module = cls(config, 0)
        with pytest.raises(ValueError, match=f"it passes {name} to its attention, which only"):
            multimax.convert(module, "multimax")


def test_what_may_change_attention_is_refused_when_it_arrives():
    model = next(family for family in FAMILIES if family.name == "LlamaForCausalLM").build()
    ids = torch.randint(3, 64, (2, 8))
    expected = model(ids).logits
    multimax.convert(model, "multimax", init="zero")
    found = model(ids, num_items_in_batch=3, token_type_ids=torch.zeros_like(ids), sinks=None).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="LlamaAttention got sinks for its attention, which may change"):
        model(ids, sinks=torch.zeros(4))
