"""Reweighting functions: from scores to weights on the probability simplex, along the last dimension::

    from multimax import reweight

    attend = reweight.create("multimax", order=2)           # a torch.nn.Module
    weights = attend(scores, mask)                          # mask: bool, True = live; or None
    weights = reweight.sparsemax(scores, mask=mask)         # the functional form

Every function keeps the same contract. The mask is an argument, never an infinity among the scores. Live entries get
the weights that they would have if the dead ones were not there. Dead entries, whatever they hold, get weight and
gradient zero, and so does every entry of a row with no live entry. Half precision is computed in float32 and returned
in the scores' dtype. Gradients are in closed form.
"""

from multimax.kernels import row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._elastic_softmax import ElasticSoftmax
from multimax.reweight._entmax import Entmax, Entmax15, Sparsemax, entmax, entmax15, sparsemax
from multimax.reweight._evsoftmax import EvSoftmax, evsoftmax
from multimax.reweight._modulated import Modulated
from multimax.reweight._modulators import ELU, MODULATORS, Modulator, SegLU, SiLU, SoftCap, seglu
from multimax.reweight._multimax import MultiMax, multimax
from multimax.reweight._normmax import normmax
from multimax.reweight._registry import Traits, at_the_output, available, create, get, options, register, traits
from multimax.reweight._relu import relu
from multimax.reweight._sa_softmax import sa_softmax
from multimax.reweight._scalable_softmax import ScalableSoftmax
from multimax.reweight._segment import segment
from multimax.reweight._sigmoid import sigmoid
from multimax.reweight._sink import Sink, softmax_plus_one
from multimax.reweight._softmax import Softmax, softmax
from multimax.reweight._softpick import softpick
from multimax.reweight._stieltjes import stieltjes
from multimax.reweight._temperature import Temperature
from multimax.reweight._topk_softmax import topk_softmax

__all__ = [
    "ELU",
    "MODULATORS",
    "ElasticSoftmax",
    "Entmax",
    "Entmax15",
    "EvSoftmax",
    "Modulated",
    "Modulator",
    "MultiMax",
    "Reweighting",
    "ScalableSoftmax",
    "SegLU",
    "SiLU",
    "Sink",
    "SoftCap",
    "Softmax",
    "Sparsemax",
    "Temperature",
    "Traits",
    "at_the_output",
    "available",
    "create",
    "entmax",
    "entmax15",
    "evsoftmax",
    "get",
    "multimax",
    "normmax",
    "options",
    "register",
    "relu",
    "row_kernels",
    "sa_softmax",
    "seglu",
    "segment",
    "sigmoid",
    "softmax",
    "softmax_plus_one",
    "softpick",
    "sparsemax",
    "stieltjes",
    "topk_softmax",
    "traits",
]
