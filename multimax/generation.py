"""Continuing a text with a language model.

Each token is drawn from what the model's own output reweighting gives; a sparse one is drawn from as it is.
Temperature T raises the probabilities to the power 1/T, which for softmax is the division of the logits by T. Then
top-k keeps the k most probable tokens (Fan et al. 2018, 1805.04833), and top-p the fewest that hold a share p of the
mass (Holtzman et al. 2020, 1904.09751).
"""

import torch
from torch import Tensor

from multimax.errors import UserError
from multimax.models.language_model import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    num_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tokens int64 [batch, num_tokens] that follow ``prompt`` int64 [batch, length], one after the other.

    Args:
        model: in evaluation mode.
        temperature: 0 takes the most probable token.
        top_k: None keeps all tokens.
        generator: on the device of ``prompt``; None: torch's own.

    Raises:
        UserError: an empty prompt, an option out of its range, or more tokens than the model takes.
    """
    check(temperature, top_k, top_p)
    batch, length = prompt.shape
    if not length:
        raise UserError("the prompt is empty: give it at least one token")
    if model.max_length is not None and length + num_tokens - 1 > model.max_length:
        raise UserError(
            f"{length} tokens of prompt and {num_tokens} new ones are more than the {model.max_length} that the model "
            "takes (model.segment_length): shorten the prompt or ask for fewer"
        )
    memory: Tensor | None = model.start_memory(batch)
    tokens, generated = prompt, []
    for _ in range(num_tokens):
        hidden, memory = model.encode(tokens, memory)
        weights = adjust(model.weights(hidden[:, -1]), temperature, top_k, top_p)
        tokens = torch.multinomial(weights, 1, generator=generator)
        generated.append(tokens)
    return torch.cat([prompt[:, :0], *generated], 1)


def check(temperature: float, top_k: int | None, top_p: float) -> None:
    """Raise UserError for an option out of its range."""
    if temperature < 0:
        raise UserError(f"temperature={temperature} is below 0")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} is below 1")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is not in (0, 1]")


def adjust(weights: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Weights [batch, tokens], up to a factor, to draw from. A token of weight zero keeps it."""
    if temperature == 0:
        top_k, temperature = 1, 1.0
    weights = weights.float()
    if temperature != 1:  # relative to the largest: a power of a small number is zero
        weights = (weights / weights.amax(-1, keepdim=True)) ** (1 / temperature)
    ordered, tokens = weights.sort(stable=True, dim=-1, descending=True)
    if top_k is not None:
        ordered[:, top_k:] = 0
    ordered = ordered / ordered.sum(-1, keepdim=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(weights).scatter(-1, tokens, ordered.where(before < top_p, 0))
