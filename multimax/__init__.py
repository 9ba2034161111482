"""Softmax and its alternatives for attention and classifiers.

    import multimax
    from multimax import reweight                                # the functions: multimax.reweight

    weights = reweight.sparsemax(scores, mask=mask)
    output = multimax.attention(query, key, value, reweight.create("multimax"), mask)
    loss = multimax.linear_cross_entropy(hidden, weight, targets)

``multimax.distributions`` and ``multimax.compat`` are imported on first use.

All of this needs only torch. ``multimax.suite`` has the paper's experiments and what they need.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from multimax import reweight
from multimax.attention import attention, attention_weights
from multimax.convert import convert
from multimax.output_layer import linear_cross_entropy
from multimax.parameters import clip_gradients, is_reweighting, parameter_groups

if TYPE_CHECKING:
    from multimax import compat as compat
    from multimax import distributions as distributions
else:

    def __getattr__(name):
        if name in ("compat", "distributions"):
            return import_module(f"multimax.{name}")
        raise AttributeError(f"module 'multimax' has no attribute {name!r}")


__all__ = [
    "__version__",
    "attention",
    "attention_weights",
    "clip_gradients",
    "convert",
    "is_reweighting",
    "linear_cross_entropy",
    "parameter_groups",
    "reweight",
]

__version__ = "0.1.0"
