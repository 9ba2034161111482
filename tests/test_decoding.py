"""One search loop against plain ones, without batch, cache or tensors, on models of every function."""

import math

import pytest
import torch
from torch import nn

from multimax import reweight
from multimax.decoding import Sampling, Search, continue_text, translate
from multimax.errors import UserError
from multimax.models.encoder_decoder import END, PAD, AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.models.language_model import LanguageModelConfig
from multimax.models.transformer_lm import TransformerLM
from multimax.models.transformer_xl import TransformerXL

LENGTHS = [7, 2, 5, 1, 4]
SOURCE = torch.randint(3, 13, (5, 7), generator=torch.Generator().manual_seed(3))
MASK = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
SOURCE = SOURCE.where(MASK, PAD)
SHORT = Search(max_length_ratio=0.5, max_length_extra=8)


def build(name="softmax", output=None, spread=0.5, **options):
    """A model whose next token depends on everything before it; ``spread`` makes its outputs sharp."""
    torch.manual_seed(0)
    site, config = {"name": name}, EncoderDecoderConfig(2, 2, 12, 3, 10, 0.0, **options)
    model = EncoderDecoder(config, AttentionSites(site, site, site), {"name": output or name}, 13, 11)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=spread)
    return model.double().eval()


def next_weights(model, source, prefix):
    """Probabilities of what follows ``prefix``, from the whole forward of one sentence."""
    mask = torch.ones(1, len(source), dtype=torch.bool)
    hidden, _ = model.decode(torch.tensor([[END, *prefix]]), model.encode(source[None], mask), mask)
    return model.weights(hidden[0, -1]).tolist()


def plain_search(model, source, search):
    """Beam search by fairseq's rules over lists of tokens: [(score, tokens)], best first."""
    limit = int(search.max_length_ratio * len(source) + search.max_length_extra)
    alive, ended = [(0.0, [])], []
    while True:
        step = len(alive[0][1])
        continuations = []
        for score, tokens in alive:
            for token, weight in enumerate(next_weights(model, source, tokens)):
                too_early = token == END and step < search.min_length
                if weight > 0 and token != PAD and not too_early and (token == END or step < limit):
                    continuations.append((score + math.log(weight), [*tokens, token]))
        continuations = sorted(continuations, key=lambda c: -c[0])[: 2 * search.beam]
        ended += [c for c in continuations[: search.beam] if c[1][-1] == END]
        before, alive = alive, [c for c in continuations if c[1][-1] != END][: search.beam]
        if len(ended) >= search.beam or step == limit or not alive:
            found = [(s / max(1, len(t)) ** search.length_penalty, t) for s, t in ended[: search.beam] or before]
            return sorted(found, key=lambda c: -c[0])


def assert_same(found, expected):
    assert [hypothesis.tokens.tolist() for hypothesis in found] == [tokens for _, tokens in expected]
    scores = torch.tensor([hypothesis.score for hypothesis in found])
    torch.testing.assert_close(scores, torch.tensor([score for score, _ in expected]), rtol=1e-6, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("spread", [0.3, 0.7])
@pytest.mark.parametrize("name", reweight.available())
def test_beam_search_equals_a_plain_search_of_one_sentence(name, spread):
    model = build(name, spread=spread)
    for i, hypotheses in enumerate(translate(model, SOURCE, MASK, SHORT)):
        assert_same(hypotheses, plain_search(model, SOURCE[i, : LENGTHS[i]], SHORT))


LM_CONFIG = LanguageModelConfig(depth=2, dim=12, num_heads=3, ffn_dim=10, segment_length=12, eval_memory_length=20)
PROMPT = torch.tensor([[3, 1, 4], [1, 5, 9]])


def build_lm(kind, name):
    torch.manual_seed(0)
    model = kind(LM_CONFIG, {"name": name}, {"name": name}, 17)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", [TransformerXL, TransformerLM])
@pytest.mark.parametrize("name", reweight.available())
def test_each_token_of_a_text_is_drawn_from_what_the_whole_text_before_it_gives(kind, name):
    model = build_lm(kind, name)
    tokens = continue_text(model, PROMPT, 9, Sampling(), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    text = PROMPT
    for _ in range(9):
        hidden, _ = model.encode(text)
        weights = model.weights(hidden[:, -1])
        text = torch.cat([text, torch.multinomial(weights, 1, generator=generator)], 1)
        assert (weights.gather(1, text[:, -1:]) > 0).all()
    assert torch.equal(tokens, text[:, 3:])


def test_sampling_options_change_what_is_drawn_from():
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0]])

    def shares(**options):
        adjusted = Sampling(**options).adjust(weights)
        return adjusted / adjusted.sum(-1, keepdim=True)

    torch.testing.assert_close(shares(), weights)
    torch.testing.assert_close(shares(temperature=0.5), weights**2 / (weights**2).sum())
    logits = torch.randn(1, 9)
    cooled = Sampling(temperature=0.7).adjust(logits.softmax(-1))
    torch.testing.assert_close(cooled, (logits / 0.7).softmax(-1))
    torch.testing.assert_close(shares(top_k=2), torch.tensor([[4 / 7, 3 / 7, 0, 0, 0]]))
    torch.testing.assert_close(shares(top_p=0.65), torch.tensor([[4 / 7, 3 / 7, 0, 0, 0]]))
    torch.testing.assert_close(shares(top_p=0.75), torch.tensor([[4 / 9, 3 / 9, 2 / 9, 0, 0]]))
    torch.testing.assert_close(shares(temperature=0), torch.tensor([[1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(shares(temperature=1e-3), torch.tensor([[1.0, 0, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("options", "expected"), [({"temperature": -1}, "temperature"), ({"top_k": 0}, "top_k"), ({"top_p": 0}, "top_p")]
)
def test_a_mistake_in_sampling_is_one_line(options, expected):
    for call in (
        lambda: continue_text(build_lm(TransformerLM, "softmax"), PROMPT, 3, Sampling(**options)),
        lambda: translate(build(), SOURCE, MASK, SHORT, Sampling(**options)),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_text_that_is_empty_or_too_long_is_refused():
    model = build_lm(TransformerLM, "softmax")
    with pytest.raises(UserError, match="12 that the model takes"):
        continue_text(model, PROMPT, 12, Sampling())
    with pytest.raises(UserError, match="empty"):
        continue_text(model, PROMPT[:, :0], 3, Sampling())
