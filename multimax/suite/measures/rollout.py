"""Attention rollout: how much of each input token would be in each output token if only attention mixed them.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928. With A the weights of layer
l averaged over its heads,

    A' = A + I, each row divided by its sum,      R_l = A'_l R_(l-1),      R_0 = I.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rollout(layers: Sequence[Tensor]) -> Tensor:
    """R of the last layer, [batch, tokens, tokens], from the weights [batch, heads, tokens, tokens] of every layer.

    Row i says what output token i is made of, and sums to 1.
    """
    identity = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    flow = identity.expand(len(layers[0]), -1, -1)
    for weights in layers:
        mixed = weights.mean(1) + identity
        flow = mixed / mixed.sum(-1, keepdim=True) @ flow
    return flow


def patch_relevance(flow: Tensor, prefix: int, pool: str) -> Tensor:
    """Each patch's relevance to the classifier, [batch, patches], from R [batch, tokens, tokens].

    ``prefix`` tokens, such as the class token, come before the patches. The classifier sees the class token (``pool``
    "token"), or the mean of the patches ("avg").
    """
    seen = flow[:, 0] if pool == "token" else flow[:, prefix:].mean(1)
    return seen[:, prefix:]
