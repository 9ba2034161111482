"""Our models against fairseq's own with the same weights: logits, search, and converting there and back."""

import re
from argparse import Namespace

import pytest
import torch

pytest.importorskip("fairseq", reason="the extra 'fairseq' is not installed")

from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.sequence_generator import SequenceGenerator

from benchmarks.language_modeling import fairseq_model
from multimax.integrations.fairseq.models import ReweightedTransformer
from multimax.suite.decoding import Search, translate
from multimax.suite.errors import UserError
from multimax.suite.fairseq.weights import from_fairseq, to_fairseq
from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM
from tests.integrations.fairseq_models import batch, dictionary, language_model, transformer

SIZES = {"dim": 12, "num_heads": 3, "ffn_dim": 10, "dropout": 0.0}
MULTIMAX = {"name": "multimax"}
SOFTMAX = {"name": "softmax"}


def encoder_decoder(site=SOFTMAX, **options):
    config = EncoderDecoderConfig(encoder_depth=2, decoder_depth=2, max_length=64, **SIZES, **options)
    return EncoderDecoder(config, AttentionSites(site, site, site), site, 16, 16).eval()


def ours_of(theirs, site=SOFTMAX, **options):
    model = encoder_decoder(site, **options)
    from_fairseq(model, theirs.state_dict())
    return model


def our_logits(model, sample):
    source = sample["net_input"]["src_tokens"]
    encoded = model.encode(source, source != 1)
    return model.scores(model.decode(sample["net_input"]["prev_output_tokens"], encoded, source != 1))


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("shared", ["decoder", "all"])
def test_logits_are_those_of_fairseqs_own_model(pre_norm, shared):
    options = {"encoder_normalize_before": pre_norm, "decoder_normalize_before": pre_norm}
    theirs = transformer(TransformerModel, share_all_embeddings=shared == "all", **options)
    ours = ours_of(theirs, pre_norm=pre_norm, share_embeddings=shared)
    sample = batch(padding="right")
    live = sample["target"] != 1
    expected = theirs(**sample["net_input"])[0]
    torch.testing.assert_close(our_logits(ours, sample)[live], expected[live], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["multimax", "entmax15", "sparsemax", "evsoftmax", "entmax"])
def test_logits_are_those_of_the_plugin_for_every_function(name):
    sample = batch(padding="right")
    theirs = transformer(reweight=name, reweight_output=name)
    ours = ours_of(theirs, {"name": name})
    live = sample["target"] != 1
    expected = theirs(**sample["net_input"])[0]
    torch.testing.assert_close(our_logits(ours, sample)[live], expected[live], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "seed"), [("softmax", 0), ("softmax", 7), ("multimax", 4), ("multimax", 13)])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("limits", [(0, 12), (1.2, 3)])
def test_a_beam_finds_the_hypotheses_that_fairseqs_does(name, seed, length_penalty, limits):
    """The seeds give translations of two to six tokens and some that end at the limit."""
    kind = TransformerModel if name == "softmax" else ReweightedTransformer
    theirs = transformer(kind, std=1.0, seed=seed, reweight=name).double()
    ours = ours_of(theirs, {"name": name}).double()
    # fairseq's limit counts a batch's padding and ours does not, so a relative limit needs sentences of one length.
    lengths = (6, 3, 9, 4) if limits[0] == 0 else (5, 5, 5, 5)
    sample = batch(lengths, (3, 3, 3, 3), "right")
    source = sample["net_input"]["src_tokens"]
    generator = SequenceGenerator(
        [theirs], dictionary(), beam_size=5, max_len_a=limits[0], max_len_b=limits[1], len_penalty=length_penalty
    )
    expected = generator.generate([theirs], sample)
    search = Search(5, length_penalty, *limits)
    for found, wanted in zip(translate(ours, source, source != 1, search), expected, strict=True):
        assert [h.tokens.tolist() for h in found] == [h["tokens"].tolist() for h in wanted]
        assert [h.score for h in found] == pytest.approx([h["score"].item() for h in wanted], abs=1e-4)


@pytest.mark.parametrize("site", [SOFTMAX, MULTIMAX], ids=lambda site: site["name"])
@pytest.mark.parametrize("shared", ["decoder", "all"])
def test_there_and_back(site, shared):
    ours = encoder_decoder(site, share_embeddings=shared)
    theirs = transformer(reweight=site["name"], share_all_embeddings=shared == "all")
    theirs.load_state_dict(to_fairseq(ours))
    back = encoder_decoder(site, share_embeddings=shared)
    from_fairseq(back, theirs.state_dict())
    for (name, weight), other in zip(ours.named_parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("site", [SOFTMAX, MULTIMAX], ids=lambda site: site["name"])
def test_language_model_both_ways(site):
    config = LanguageModelConfig("transformer_lm", depth=2, segment_length=64, **SIZES)
    theirs = language_model(reweight=site["name"], decoder_input_dim=12, decoder_output_dim=12)
    ours = TransformerLM(config, site, site, 16).eval()
    from_fairseq(ours, theirs.state_dict())
    tokens = batch(target_lengths=(6, 6, 6))["net_input"]["prev_output_tokens"]
    hidden, _ = ours.encode(tokens)
    torch.testing.assert_close(ours.embedding.scores(0, hidden), theirs(tokens)[0], rtol=1e-5, atol=1e-5)
    written = to_fairseq(ours)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(written[name], tensor, rtol=0, atol=0, msg=name)


def test_language_model_of_the_benchmark_is_fairseqs_own():
    config = LanguageModelConfig("transformer_lm", depth=2, segment_length=9, **SIZES)
    ours = TransformerLM(config, SOFTMAX, SOFTMAX, 19).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    theirs = fairseq_model(ours)
    assert type(theirs) is TransformerLanguageModel
    tokens = batch(target_lengths=(9, 9, 9))["net_input"]["prev_output_tokens"]
    hidden, _ = ours.encode(tokens)
    torch.testing.assert_close(ours.embedding.scores(0, hidden), theirs(tokens)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share_decoder_input_output_embed": False}, "no place for decoder.output_projection.weight"),
        ({"decoder_layers": 3}, r"no place for decoder.layers.2"),
        ({"decoder_layers": 1}, r"decoder.layers.1.self_attn.\w+.weight is not among them"),
        ({"encoder_normalize_before": True}, r"no place for encoder.layer_norm.bias and 1 more"),
        ({"encoder_ffn_embed_dim": 8}, r"encoder.layers.0.fc1.weight is for \(8, 12\) and not \(10, 12\)"),
        ({"encoder_learned_pos": True}, r"no place for encoder.embed_positions.weight"),
        ({"reweight": "multimax"}, r"no place for .*reweight.ranges and 13 more"),
    ],
)
def test_weights_of_another_model_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        from_fairseq(encoder_decoder(), transformer(**options).state_dict())


def test_the_snippet_of_the_docs_runs(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = transformer(TransformerModel, share_all_embeddings=True)
    torch.save({"args": Namespace(), "model": theirs.state_dict()}, "checkpoint_best.pt")
    ours = encoder_decoder(share_embeddings="all")
    (snippet,) = re.findall(r"```python\n(.*?)```", (root / "docs/fairseq.md").read_text(), re.DOTALL)
    exec(snippet, {"model": ours, "fairseq_model": transformer(TransformerModel, share_all_embeddings=True)})
    torch.testing.assert_close(ours.state_dict(), ours_of(theirs, share_embeddings="all").state_dict())
