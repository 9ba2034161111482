"""Wrong arguments to every function give a one-line error that names them, or the right value."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from wrong_arguments import draws, judge

from multimax import reweight
from multimax.formulas import entmax, evsoftmax, losses, multimax, softmax
from multimax.reweight import Modulator

SCORES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([True, False, True, True])


def by_rows(formula):
    """Apply ``formula``, a function of one row in float64, to the live entries of each row by itself."""

    def weigh(scores, mask=None, dim=-1, **options):
        if dim not in (None, -1, scores.dim() - 1):
            moved = None if mask is None else mask.expand(scores.shape).movedim(dim, -1)
            return weigh(scores.movedim(dim, -1), moved, **options).movedim(-1, dim)
        live = torch.ones(scores.shape, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
        weights = torch.zeros(scores.shape, dtype=torch.float64)
        for row in product(*map(range, scores.shape[:-1])):
            if live[row].any():
                weights[row] = weights[row].masked_scatter(
                    live[row], formula(scores.detach()[row][live[row]].double(), row, scores.shape, **options)
                )
        return weights

    return weigh


def plain_entmax(x, row, shape, alpha):
    if isinstance(alpha, torch.Tensor):
        if alpha.dim() == 1 and len(alpha) > 1:
            alpha = alpha[:, None, None]
        alpha = alpha.detach().expand(*shape[:-1], 1)[row].item() if alpha.numel() > 1 else alpha.item()
    return softmax.formula(x) if alpha == 1 else entmax.formula(x, alpha)


def four_terms(ranges, ts, order, row):
    """r and t of ``multimax.formula`` for a row; terms that ``order`` lacks get t = 0."""
    r, t = (
        p.detach().double()[0 if len(p) == 1 else row[-2]] if p.dim() == 2 else p.detach().double()
        for p in (ranges, ts)
    )
    r, nothing = r.repeat(4 // len(r)), torch.zeros(2, dtype=torch.float64)
    return r, {1: torch.cat([t, nothing]), 2: t, "second_only": torch.cat([nothing, t])}[order]


def plain_multimax(x, row, shape, ranges, ts, order=2):
    return multimax.formula(x, *four_terms(ranges, ts, order, row))


def plain_seglu(x, row, shape, ranges, ts, order=2):
    return multimax.seglu_formula(x, *four_terms(ranges, ts, order, row))


def own(function):
    """``function`` itself, applied to the live entries of each row in float64."""
    return by_rows(lambda x, row, shape, **options: function(x, **options).detach())


FUNCTIONS = {
    "softmax": (by_rows(lambda x, *_: softmax.formula(x)), {}),
    "sparsemax": (by_rows(lambda x, *_: entmax.formula(x, 2.0)), {}),
    "entmax15": (by_rows(lambda x, *_: entmax.formula(x, 1.5)), {}),
    "entmax": (by_rows(plain_entmax), {"alpha": torch.tensor([1.2, 1.5, 1.7])[:2]}),
    "evsoftmax": (by_rows(lambda x, row, shape, epsilon=0.0: evsoftmax.formula(x, epsilon)), {"epsilon": 0.1}),
    "multimax": (by_rows(plain_multimax), {"ranges": torch.zeros(4), "ts": torch.full((4,), 0.1), "order": 2}),
    "seglu": (by_rows(plain_seglu), {"ranges": torch.zeros(2), "ts": torch.full((2, 2), 0.1), "order": 1}),
    "topk_softmax": (own(reweight.topk_softmax), {"k": 2}),
    "normmax": (own(reweight.normmax), {"alpha": 1.5}),
    "stieltjes": (own(reweight.stieltjes), {"q": 2.0}),
    **{f: (own(getattr(reweight, f)), {}) for f in ("sigmoid", "relu", "softmax_plus_one", "softpick", "sa_softmax")},
}


HINGES = {"order": 1, "shared_ranges": False, "per_head": True, "init": "zero", "num_heads": 2}
CLASSES = {
    "ELU": {"alpha": 1.5},
    "SiLU": {},
    "SoftCap": {"cap": 2.0},
    "SegLU": HINGES,
    "MultiMax": HINGES,
    "ElasticSoftmax": {"num_heads": 2},
    "Entmax": {"alpha": None, "per_head": True, "num_heads": 2},
    "Entmax15": {},
    "EvSoftmax": {"epsilon": 0.1},
    "ScalableSoftmax": {"num_heads": 2},
    "Sink": {"num_heads": 2},
    "Softmax": {},
    "Sparsemax": {},
    "Temperature": {},
}


def plain_cross_entropy(scores, targets, ignore_index, **options):
    if targets.is_floating_point():
        return F.cross_entropy(scores.detach().double(), targets.detach().double(), **options)
    return F.cross_entropy(scores.detach().double(), targets, ignore_index=ignore_index, **options)


def plain_fenchel_young(scores, targets, label_smoothing, reduction, ignore_index):
    x = scores.detach().double()
    x = x - x.amax(-1, keepdim=True)  # matters only for targets that do not sum to one
    hard = not targets.is_floating_point()
    counted = targets != ignore_index if hard else torch.ones(len(x), dtype=torch.bool)
    y = F.one_hot(targets.where(counted, 0), x.shape[1]).double() if hard else targets.detach().double()
    y = (1 - label_smoothing) * y + label_smoothing / x.shape[1]
    rows = losses.formula(x, entmax.formula(x, 2.0), y, 2.0).where(counted, 0)
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / counted.sum()}[reduction]


LOSSES = {"softmax": plain_cross_entropy, "sparsemax": plain_fenchel_young}


def assert_none(faults):
    faults = [fault for fault in faults if fault is not None]
    assert not faults, f"{len(faults)}, such as: {faults[0]}"


@pytest.mark.parametrize("_path", ["require", "eager"], indirect=True)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    plain, options = FUNCTIONS[name]
    more = {"seglu": {}, "entmax": {"mask": MASK}}.get(name, {"mask": MASK, "dim": -1})  # dim would move entmax's heads
    right = {"scores": SCORES, **more, **options}
    assert judge(getattr(reweight, name), plain, right, []) is None
    assert_none(judge(getattr(reweight, name), plain, *draw) for draw in draws(right, 300, seed=1))


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name):
    """Options and scores that do not fit are refused, whether or not the module is made by ``create``."""
    made, options = getattr(reweight, name), CLASSES[name]

    def weigh(scores, mask=None, **options):
        torch.manual_seed(0)
        return made(**options)(scores, *(() if mask is None else (mask,)))

    def plain(scores, mask=None, **options):
        torch.manual_seed(0)
        return weigh(scores.detach().double(), mask, **options).detach()

    right = {"scores": SCORES, **options} | ({} if issubclass(made, Modulator) else {"mask": MASK})
    assert judge(weigh, plain, right, []) is None
    assert_none(judge(weigh, plain, arguments, list(right)) for arguments, _ in draws(right, 100, seed=4))


@pytest.mark.parametrize("name", reweight.available())
def test_modules(name):
    for modulator in (None, "softcap"):
        module, right = reweight.create(name, modulator=modulator), {"scores": SCORES, "mask": MASK}
        plain = own(copy.deepcopy(module).double())
        assert judge(module, plain, right, []) is None
        assert_none(judge(module, plain, *draw) for draw in draws(right, 50, seed=5))


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss, scores = reweight.create(name).loss, SCORES.reshape(6, 4)
    for targets in (torch.tensor([0, 3, -100, 1, 2, 0]), torch.softmax(scores, -1)):
        right = {
            "scores": scores,
            "targets": targets,
            "label_smoothing": 0.1,
            "reduction": "mean",
            "ignore_index": -100,
        }
        assert judge(loss, LOSSES[name], right, []) is None
        assert_none(judge(loss, LOSSES[name], *draw) for draw in draws(right, 200, seed=2))


def test_class_indices_out_of_range_are_refused():
    for name in [name for name in reweight.available() if reweight.get(name).has_loss]:
        for targets in ([0, 4], [-1, 2]):
            with pytest.raises(ValueError, match="targets must be class indices from 0 to 3"):
                reweight.create(name).loss(torch.zeros(2, 4), torch.tensor(targets))


def test_create():
    def weights(name, num_heads, **options):
        return reweight.create(name, num_heads=num_heads, **options)(SCORES)

    def plain(name, num_heads, alpha, per_head):
        return by_rows(plain_entmax)(SCORES, alpha=1.5 if alpha is None else alpha)

    right = {"name": "entmax", "num_heads": 2, "alpha": 1.5, "per_head": True}
    assert_none(judge(weights, plain, *draw) for draw in draws(right, 200, seed=3))
