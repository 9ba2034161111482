"""The search loop against plain ones without batch, cache or tensors, for every function."""

import math
from collections import Counter
from functools import partial

import pytest
import torch
from function_kinds import KINDS
from torch import nn

from multimax.suite.decoding import Sampling, Search, choose_best, choose_by_lot, continue_text, search_all, translate
from multimax.suite.errors import UserError
from multimax.suite.models.encoder_decoder import END, PAD, AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM
from multimax.suite.models.transformer_xl import TransformerXL

LENGTHS = [5, 1, 3]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
SOURCE = torch.randint(3, 13, (3, 5), generator=torch.Generator().manual_seed(3)).where(MASK, PAD)
SHORT = Search(beam=3, max_length_ratio=0.5, max_length_extra=6)


def build(name="softmax", output=None, spread=0.5, **options):
    """A model whose next token depends on all before it; ``spread`` sharpens its outputs."""
    torch.manual_seed(0)
    site, config = {"name": name}, EncoderDecoderConfig(2, 2, 12, 3, 10, 0.0, **options)
    model = EncoderDecoder(config, AttentionSites(site, site, site), {"name": output or name}, 13, 11)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=spread)
    return model.double().eval()


def next_weights(model, source):
    """Function from a prefix to the probabilities of the next token.

    Each call is a full forward pass over one sentence.
    """
    mask = torch.ones(1, len(source), dtype=torch.bool)
    encoded = model.encode(source[None], mask)

    def weights(prefix):
        hidden = model.decode(torch.tensor([[END, *prefix]]), encoded, mask)
        return model.weights(hidden[0, -1]).tolist()

    return weights


def plain_search(weights_after, limit, search):
    """Beam search by fairseq's rules over lists of tokens: [(score, tokens)], best first."""
    alive, ended = [(0.0, [])], []
    while True:
        step = len(alive[0][1])
        continuations = []
        for score, tokens in alive:
            for token, weight in enumerate(weights_after(tokens)):
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
@pytest.mark.parametrize("name", KINDS)
def test_beam_search_equals_a_plain_search_of_one_sentence(name, spread):
    model = build(name, spread=spread)
    for source, length, found in zip(SOURCE, LENGTHS, translate(model, SOURCE, MASK, SHORT), strict=True):
        assert_same(found, plain_search(next_weights(model, source[:length]), length // 2 + 6, SHORT))


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4, 12])
@pytest.mark.parametrize("options", [{"length_penalty": 0.0}, {"length_penalty": 2.5, "min_length": 5}])
def test_every_option_is_the_plain_search_s(beam, options):
    model = build("multimax", spread=0.3, pre_norm=True)
    search = Search(beam, max_length_ratio=1.5, max_length_extra=6, **options)
    for source, length, found in zip(SOURCE, LENGTHS, translate(model, SOURCE, MASK, search), strict=True):
        assert_same(found, plain_search(next_weights(model, source[:length]), int(1.5 * length + 6), search))
        assert all(len(hypothesis.tokens) > search.min_length for hypothesis in found)


class Chain:
    """A decoder whose next token depends only on the last: weights [vocabulary, vocabulary]."""

    def __init__(self, weights):
        self.weights, self.batches = torch.tensor(weights, dtype=torch.float64), []

    def step(self, tokens):
        self.batches.append(len(tokens))
        return self.weights[tokens]

    def reorder(self, parents):
        pass

    def keep(self, sentences):
        pass


def search_chain(weights, beam, limits, choose=choose_best, starts=None):
    """Search a ``Chain``: [(tokens, score)] for each sentence, and the batch size at each step.

    Token 2 ends a sentence; token 1 is never chosen.
    """
    chain = Chain(weights)
    tokens = torch.full((len(limits), beam), END) if starts is None else torch.tensor(starts)[:, None].expand(-1, beam)
    scores = torch.zeros(len(limits), beam)
    if choose is choose_best:
        scores[:, 1:] = -math.inf
    found = search_all(chain, tokens, scores, limits, choose, Search(beam, min_length=0))
    return [[(h.tokens.tolist(), h.score) for h in hypotheses] for hypotheses in found], chain.batches


# The beginning (2) leads to 3, 4 or 5. After 3 a sentence ends, after 4 it ends or goes on to 5,
# and 5 repeats for ever.
PATHS = [
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0.1, 0, 0.4, 0.3, 0.2],
    [0, 0, 1, 0, 0, 0],
    [0, 0, 0.5, 0, 0, 0.5],
    [0, 0, 0, 0, 0, 1],
]


def test_a_token_without_mass_is_never_chosen():
    ((found), (cut), (stuck)), _ = search_chain(PATHS, 6, [4, 1, 4], starts=[2, 2, 0])
    # The mass of 1 is lost, and 5 never ends.
    assert [tokens for tokens, _ in found] == [[3, 2], [4, 2]]
    assert [score for _, score in found] == pytest.approx([math.log(0.4) / 2, math.log(0.15) / 2])
    assert [tokens for tokens, _ in cut] == [[3, 2], [4, 2]]
    assert stuck == [([], 0.0)]


def test_where_nothing_can_end_the_hypotheses_stand_as_they_are():
    (found,), _ = search_chain(PATHS, 2, [3], starts=[5])
    assert found == [([5, 5, 5], 0.0)]


def test_between_equals_the_earlier_hypothesis_goes_first_and_then_the_lower_token():
    forks = [[0, 0, 0, 0.5, 0.5], [0] * 5, [0, 0, 0, 0.5, 0.5], [0, 0, 0.5, 0.25, 0.25], [0, 0, 0.5, 0.25, 0.25]]
    (found,), _ = search_chain(forks, 3, [3])
    assert [tokens for tokens, _ in found] == [[3, 2], [4, 2], [3, 3, 2]]


def test_equals_of_many_are_in_the_order_of_hypotheses_and_tokens():
    """torch.topk decides which of the 50 equal tokens are chosen, but not their order."""
    weights = torch.full((1, 2, 50), 1 / 50)
    scores, parents, tokens = choose_best(torch.zeros(1, 2), weights)
    assert len(set(scores[0].tolist())) == 1
    places = list(zip(parents[0].tolist(), tokens[0].tolist(), strict=True))
    assert places == sorted(set(places))
    assert len(places) == 4


def test_a_sentence_that_is_done_costs_nothing_more():
    """Each sentence stays in the batch for as many steps as it takes alone."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(9, 9, generator=generator).double()
    weights[:, END] *= 0.1
    weights = (weights / weights.sum(-1, keepdim=True)).tolist()
    limits = [2, 30, 4, 6, 30]
    starts = [2, 3, 8, 5, 0]
    together, batches = search_chain(weights, 3, limits, starts=starts)
    steps = []
    for i, found in enumerate(together):
        (alone,), batches_alone = search_chain(weights, 3, limits[i : i + 1], starts=starts[i : i + 1])
        assert alone == found
        steps.append(len(batches_alone))
    assert len(set(steps)) > 2
    assert batches == [sum(n > step for n in steps) for step in range(max(steps))]


def test_samples_come_as_often_as_the_model_says():
    choose = partial(choose_by_lot, sampling=Sampling(), generator=torch.Generator().manual_seed(0))
    weights = [[*row[:1], 0.0, *row[2:]] for row in PATHS]
    weights[5] = [0, 0, 0.5, 0, 0, 0.5]
    weights[2] = [0, 0, 0.2, 0.4, 0.2, 0.2]
    (found,), _ = search_chain(weights, 4000, [40], choose)
    assert len(found) == 4000
    counts = Counter(tuple(tokens) for tokens, _ in found)
    for tokens, probability in {(2,): 0.2, (3, 2): 0.4, (4, 2): 0.1, (4, 5, 2): 0.05, (5, 5, 2): 0.05}.items():
        assert counts[tokens] == pytest.approx(4000 * probability, abs=5 * math.sqrt(4000 * probability))
        score = next(score for sample, score in found if sample == list(tokens))
        assert score == pytest.approx(math.log(probability) / len(tokens))


@torch.no_grad()
def test_sampling_at_temperature_zero_is_greedy_search():
    model = build("sparsemax", "multimax")
    search = Search(1, max_length_ratio=1, max_length_extra=6)
    sampled = translate(model, SOURCE, MASK, search, Sampling(temperature=0))
    for greedy, samples in zip(translate(model, SOURCE, MASK, search), sampled, strict=True):
        assert_same(samples, [(greedy[0].score, greedy[0].tokens.tolist())])


def test_options_out_of_range_are_refused():
    for option, value in (
        ("beam", 0),
        ("max_length_extra", -1),
        ("min_length", 12),
        ("min_length", -1),
        ("max_length_ratio", -1),
        ("max_length_ratio", math.inf),
        ("length_penalty", math.nan),
    ):
        with pytest.raises(UserError, match=option):
            translate(build(), SOURCE, MASK, Search(**{option: value}))


def test_a_ratio_alone_may_limit_the_length():
    for length, found in zip(LENGTHS, translate(build(), SOURCE, MASK, Search(2, max_length_extra=0)), strict=True):
        assert all(len(hypothesis.tokens) <= int(1.2 * length) + 1 for hypothesis in found)


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
@pytest.mark.parametrize("name", KINDS)
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
