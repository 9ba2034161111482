"""Decoding: greedy search, beam search and sampling of translations in one loop, and the continuation of a text.

Each step gives every hypothesis its next token's probabilities by the model's own output reweighting; a token to which
a sparse function gives no mass is never chosen. Scores are sums of log-probabilities. Beam search keeps the rules of
fairseq's ``SequenceGenerator`` (github.com/facebookresearch/fairseq, 0.12):

- of the ``2 * beam`` best continuations of a sentence, those among the first ``beam`` that end are finished, and the
  first ``beam`` of those that do not end go on;
- a sentence is done when ``beam`` hypotheses are finished, or at its longest length, where all have to end;
- finished hypotheses are ranked by score / length ** length_penalty, the end token counted.

If no hypothesis can end, which zeros at the output make possible, they are returned as they are. Ties go to the earlier
hypothesis, then to the lower token; only a tie at the last of the ``2 * beam`` likeliest tokens of a hypothesis is left
to torch.topk. A sentence that is done leaves the batch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from multimax.suite.errors import UserError
from multimax.suite.models.encoder_decoder import END, PAD, EncoderDecoder
from multimax.suite.models.language_model import LanguageModel
from multimax.suite.options import bounded, check_options

# From the scores [batch, beam] of the hypotheses, -inf for one that is dead, and the probabilities [batch, beam,
# vocabulary] of their next tokens: at least ``beam`` continuations of each sentence, the preferred first, as scores,
# parents and tokens [batch, n].
Choice = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass
class Search:
    """How to search for translations; a ``beam`` of 1 is greedy search.

    The translation of a source of n tokens, its end included, has at most ``max_length_ratio * n + max_length_extra``
    tokens before its own end.
    """

    beam: int = bounded(1, default=5, limit=10_000)
    length_penalty: float = 1.0  # above 1 favours longer translations
    max_length_ratio: float = bounded(0, default=1.2)
    max_length_extra: int = 10
    min_length: int = bounded(0, default=1)  # tokens before the end

    def check(self, prefix: str = "") -> None:
        """Raise UserError for an option out of its range, named with ``prefix`` before it."""
        check_options(self, prefix)
        if self.max_length_ratio + self.max_length_extra < self.min_length:
            raise UserError(
                f"{prefix}max_length_extra={self.max_length_extra} with max_length_ratio={self.max_length_ratio} does "
                f"not let the translation of one token reach min_length={self.min_length}: raise it"
            )


@dataclass
class Sampling:
    """How tokens are drawn.

    Temperature T raises the probabilities to the power 1/T, which for softmax is the division of the logits by T; 0
    takes the most probable token. Then top-k keeps the k most probable tokens (Fan et al. 2018, 1805.04833), and
    top-p the fewest that hold a share p of the mass (Holtzman et al. 2020, 1904.09751).
    """

    temperature: float = bounded(0, default=1.0)
    top_k: int | None = bounded(1, default=None)
    top_p: float = 1.0

    def check(self) -> None:
        """Raise UserError for an option out of its range."""
        check_options(self)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is not in (0, 1]")

    def adjust(self, weights: Tensor) -> Tensor:
        """Weights [..., tokens], up to a factor, to draw from. A token of weight zero keeps it."""
        top_k, temperature = (1, 1.0) if self.temperature == 0 else (self.top_k, self.temperature)
        weights = weights.float()
        if temperature != 1:  # relative to the largest: a power of a small number is zero
            weights = (weights / weights.amax(-1, keepdim=True)) ** (1 / temperature)
        ordered, tokens = weights.sort(stable=True, dim=-1, descending=True)
        if top_k is not None:
            ordered[..., top_k:] = 0
        ordered = ordered / ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1) - ordered
        return torch.zeros_like(weights).scatter(-1, tokens, ordered.where(before < self.top_p, 0))


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """``tokens`` int64 [length] with the end token, where it has ended, and the normalised ``score``."""

    tokens: Tensor
    score: float


@torch.no_grad()
def translate(
    model: EncoderDecoder,
    source: Tensor,
    source_mask: Tensor,
    search: Search,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """For each sentence its translations, at most ``search.beam``, best first.

    Args:
        model: in evaluation mode.
        source: int64 [batch, length], each row with its end token.
        source_mask: bool, True at a token.
        search: with ``sampling``, beam is the number of samples of each sentence.
        sampling: None searches for the most probable translations.
        generator: for sampling, on the device of ``source``; None: torch's own.
    """
    search.check()
    limits = [
        min(int(search.max_length_ratio * n + search.max_length_extra), model.max_length - 1)
        for n in source_mask.sum(1).tolist()
    ]
    tokens = source.new_full((len(source), search.beam), END)
    scores = torch.zeros(tokens.shape, device=source.device)
    choose: Choice = choose_best
    if sampling is None:
        scores[:, 1:] = -math.inf  # beam search has one beginning
    else:
        sampling.check()
        choose = partial(choose_by_lot, sampling=sampling, generator=generator)
    decoder = Decoder(model, source, source_mask, search.beam)
    return search_all(decoder, tokens, scores, limits, choose, search)


@torch.no_grad()
def continue_text(
    model: LanguageModel,
    prompt: Tensor,
    num_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tokens int64 [batch, num_tokens] that follow ``prompt`` int64 [batch, length], one after the other.

    Args:
        model: in evaluation mode.
        generator: on the device of ``prompt``; None: torch's own.

    Raises:
        UserError: an empty prompt, an option out of its range, or more tokens than the model takes.
    """
    batch, length = prompt.shape
    if not length:
        raise UserError("the prompt is empty: give it at least one token")
    if model.max_length is not None and length + num_tokens - 1 > model.max_length:
        raise UserError(
            f"{length} tokens of prompt and {num_tokens} new ones are more than the {model.max_length} that the model "
            "takes (model.segment_length): shorten the prompt or ask for fewer"
        )
    sampling.check()
    memory: Tensor | None = model.start_memory(batch)
    tokens, found = prompt, [prompt[:, :0]]
    for _ in range(num_tokens):
        hidden, memory = model.encode(tokens, memory)
        tokens = draw(model.weights(hidden[:, -1]), sampling, generator)
        found.append(tokens)
    return torch.cat(found, 1)


class Decoder:
    """A model with the state of [batch, beam] hypotheses, equally many for each sentence."""

    def __init__(self, model: EncoderDecoder, source: Tensor, source_mask: Tensor, beam: int):
        self.model = model
        self.cache = model.start_cache(model.encode(source, source_mask), source_mask, beam)
        self.reorder, self.keep = self.cache.reorder, self.cache.keep

    def step(self, tokens: Tensor) -> Tensor:
        """Probabilities [batch, beam, vocabulary] of what follows the newest ``tokens`` int64 [batch, beam]."""
        return self.model.weights(self.model.step(tokens, self.cache))


def choose_best(scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ``2 * beam`` continuations of highest score."""
    beam, vocabulary = weights.shape[1:]
    count = min(2 * beam, vocabulary)
    best, tokens = weights.topk(count)
    tokens, by_token = tokens.sort()
    best = best.gather(-1, by_token)
    continued, order = (scores[..., None] + best.log()).flatten(1).sort(stable=True, descending=True)
    continued, order = continued[:, : 2 * beam], order[:, : 2 * beam]
    return continued, order // count, tokens.flatten(1).gather(1, order)


def choose_by_lot(
    scores: Tensor, weights: Tensor, sampling: Sampling, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One random continuation of each hypothesis, scored by the model's own probability."""
    tokens = draw(weights.flatten(0, 1), sampling, generator).view_as(scores)
    parents = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    return scores + weights.gather(-1, tokens[..., None]).squeeze(-1).log(), parents, tokens


def draw(weights: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """Tokens int64 [n, 1] for probabilities [n, vocabulary]."""
    adjusted = sampling.adjust(weights)
    # If there is nothing to draw from, the hypothesis is dead anyway.
    adjusted.masked_fill_((adjusted == 0).all(-1, keepdim=True), 1)
    return torch.multinomial(adjusted, 1, generator=generator)


def search_all(
    decoder: Decoder,
    tokens: Tensor,
    scores: Tensor,
    limits: list[int],
    choose: Choice,
    search: Search,
) -> list[list[Hypothesis]]:
    """The hypotheses of each sentence, best first.

    Args:
        tokens: int64 [batch, beam], which the hypotheses follow but do not contain.
        scores: [batch, beam], the scores they begin with; -inf for one that is not to go on.
        limits: for each sentence, the most tokens before ``END``; ``PAD`` is never chosen.
    """
    found: list[list[Hypothesis]] = [[] for _ in limits]
    rows = list(range(len(limits)))  # the sentence in each row of the batch
    history = tokens.new_empty(*tokens.shape, 0)
    step = 0
    while rows:
        last = [limits[sentence] == step for sentence in rows]
        weights = decoder.step(tokens)
        restrict(weights, may_end=step >= search.min_length, must_end=last)
        candidates, parents, following = choose(scores, weights)

        ending = following == END
        ended = (ending & (candidates > -math.inf))[:, : search.beam]
        chosen = ending.sort(stable=True).indices[:, : search.beam]  # the first that do not end
        before = history, scores
        scores = candidates.masked_fill(ending, -math.inf).gather(1, chosen)
        moves, tokens = parents.gather(1, chosen), following.gather(1, chosen)
        history = torch.cat([follow(history, moves), tokens[..., None]], -1)
        step += 1

        # If nothing ends in this step, this is the only wait for the device.
        *has_ended, alive = torch.cat([ended, (scores > -math.inf).any(1, keepdim=True)], 1).T.tolist()
        if any(map(any, has_ended)):
            whole = torch.cat([follow(before[0], parents), following[..., None]], -1)[:, : search.beam]
            for row, hypothesis in pick(whole, candidates[:, : search.beam], ended, search.length_penalty):
                if len(found[rows[row]]) < search.beam:
                    found[rows[row]].append(hypothesis)
        kept = []
        for row, sentence in enumerate(rows):
            if not last[row] and alive[row] and len(found[sentence]) < search.beam:
                kept.append(row)
            elif not found[sentence]:
                past, past_scores = (history, scores) if alive[row] else before
                past, past_scores = past[row : row + 1], past_scores[row : row + 1]
                stuck = pick(past, past_scores, past_scores > -math.inf, search.length_penalty)
                found[sentence] = [hypothesis for _, hypothesis in stuck]
        if len(kept) < len(rows):
            # The last ones take the places of those that leave, so that most stay in place.
            staying, size = set(kept), len(kept)
            late = [row for row in kept if row >= size]
            kept = [row if row in staying else late.pop() for row in range(size)]
            rows = [rows[row] for row in kept]
            history, scores, moves, tokens = (state[kept] for state in (history, scores, moves, tokens))
            decoder.keep(kept)
        decoder.reorder(moves)
    return [sorted(hypotheses, key=lambda hypothesis: -hypothesis.score) for hypotheses in found]


def restrict(weights: Tensor, may_end: bool, must_end: list[bool]) -> None:
    """Zero the ``weights`` [batch, beam, vocabulary] of what may not follow; ``must_end`` is by sentence."""
    weights[..., PAD] = 0
    if not may_end:
        weights[..., END] = 0
    if any(must_end):
        others = torch.arange(weights.shape[-1], device=weights.device) != END
        rows = torch.tensor(must_end, device=weights.device)
        weights.masked_fill_(rows[:, None, None] & others, 0)


def pick(history: Tensor, scores: Tensor, which: Tensor, length_penalty: float) -> Iterator[tuple[int, Hypothesis]]:
    """Row and hypothesis wherever ``which`` [batch, n] is True, row by row."""
    row, column = which.nonzero(as_tuple=True)
    normalised = scores[row, column] / max(1, history.shape[-1]) ** length_penalty
    for one, tokens, score in zip(row.tolist(), history[row, column].cpu(), normalised.tolist(), strict=True):
        yield one, Hypothesis(tokens, score)


def follow(history: Tensor, parents: Tensor) -> Tensor:
    """The tokens [batch, n, length] of the hypotheses ``parents`` int64 [batch, n] in ``history``."""
    return history.gather(1, parents[..., None].expand(-1, -1, history.shape[-1]))
