"""Wrong arguments to every public name give a one-line error that names them, or the right value."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical as TorchsCategorical
from torch.distributions import kl_divergence
from wrong_arguments import draws, judge

import multimax
from multimax import distributions, reweight
from multimax.compat import entmax as compat
from multimax.distributions import Categorical
from multimax.formulas import entmax, losses, softmax
from multimax.reweight import _registry
from multimax.reweight._normmax import weigh as weigh_by_normmax

SCORES = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
OTHERS = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def along(weigh):
    """Apply ``weigh``, a function of a row in float64 and of a number, to each row along ``dim``."""

    def plain(X, dim=-1, number=None, **_):
        x, dim = X.detach().double(), -1 if dim is None else dim
        numbers = torch.as_tensor(0.0 if number is None else number).detach().double()
        shape = list(x.shape)
        shape[dim] = 1
        numbers = numbers.expand(shape).movedim(dim, -1).reshape(-1)
        rows = x.movedim(dim, -1)
        found = [weigh(row, n) for row, n in zip(rows.reshape(-1, rows.shape[-1]), numbers, strict=True)]
        return torch.stack(found).reshape(rows.shape).movedim(-1, dim) if found else x

    return plain


def plain_entmax(x, alpha):
    return (
        softmax.formula(x)
        if alpha == 1
        else entmax.formula(x, alpha.item())
        if alpha > 1
        else entmax.weigh(x, alpha.item())
    )


def plain_budget(x, budget):
    """Find tau by bisection."""
    low, high = x.min() - 1, x.max()
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if (x - tau).clamp(0, 1).sum() >= budget else (low, tau)
    return (x - tau).clamp(0, 1)


def plain_losses(weigh, entropy):
    def plain(X, target, alpha=None, **_):
        x = X.detach().double()
        alphas = torch.as_tensor(alpha).detach().double().expand(len(x), 1)
        found = []
        for row, i, a in zip(x, target, alphas[:, 0], strict=True):
            p = weigh(row, a)
            found.append((p * row).sum() - row[i] + entropy(p, a))
        return torch.stack(found) if found else x.new_zeros(0)

    return plain


plain_entmax_loss = plain_losses(
    plain_entmax, lambda p, a: -p.xlogy(p).sum() if a == 1 else losses.tsallis.formula(p, a.item())
)
plain_normmax_loss = plain_losses(lambda x, a: weigh_by_normmax(x, a.item()), lambda p, a: 1 - p.norm(a.item()))


def reduced(loss, of):
    """The loss, and a plain version: ``of``'s values summed, averaged or as they are."""

    def plain(X, target, ignore_index, reduction, **options):
        counted = target != ignore_index
        rows = of(X, target.where(counted, 0), **options).where(counted, 0)
        return {"none": rows, "sum": rows.sum(), "elementwise_mean": rows.sum() / counted.sum()}[reduction]

    return loss, plain


MODEL = nn.Sequential(nn.Linear(4, 4), reweight.create("multimax"))


def differentiated(model):
    if isinstance(model, nn.Module):
        model.zero_grad()
        model(SCORES).square().sum().backward()
    return model


def converted(**arguments):
    conversion = multimax.convert(**arguments)
    if conversion.changed:
        conversion.undo()
    return torch.tensor(float(len(conversion.changed)))


def register(name, **traits):
    _registry._REGISTRY.pop("mine", None)
    reweight.register(name, **traits)(lambda scores, mask=None: reweight.softmax(scores, mask=mask))
    return reweight.available()


def plain_segments(function, scores, index, ptr, num_segments):
    index = torch.arange(len(ptr) - 1).repeat_interleave(ptr.diff()) if index is None else index
    module = reweight.create(function) if isinstance(function, str) else function
    found = torch.zeros(scores.shape, dtype=torch.float64)
    for i in index.unique():
        found[index == i] = module.double()(scores.detach()[index == i].double().movedim(0, -1)).movedim(-1, 0).detach()
    return found


def torchs(method, **options):
    """The value of a method of torch's Categorical."""
    return lambda **arguments: getattr(TorchsCategorical(logits=SCORES.double()), method)(**arguments)


def zeros_of(sample_shape, more=()):
    return torch.zeros(*sample_shape, 3, *more)


def of_module(module):
    """A module as a function of its input and its options."""
    return lambda X, **options: module(**options)(X)


def of_loss(module):
    return lambda X, target, **options: module(**options)(X, target)


ROWS = {"X": SCORES, "dim": -1}
LOSS = {"X": SCORES, "target": torch.tensor([0, 3, 1])}
OF_LOSS = LOSS | {"ignore_index": -100, "reduction": "sum"}
ALPHA = torch.tensor([[1.2], [1.5], [1.7]])


def renamed(plain, name, **more):
    return lambda **arguments: plain(**{"number" if key == name else key: a for key, a in (more | arguments).items()})


SPARSEMAX, ENTMAX15 = (renamed(along(plain_entmax), "alpha", alpha=alpha) for alpha in (2.0, 1.5))
ENTMAX = renamed(along(plain_entmax), "alpha")
NORMMAX = renamed(along(lambda x, a: weigh_by_normmax(x, a.item())), "alpha")
BUDGET = renamed(along(plain_budget), "budget")
SPARSEMAX_LOSS, ENTMAX15_LOSS = (
    lambda X, target, alpha=alpha, **_: plain_entmax_loss(X, target, alpha) for alpha in (2.0, 1.5)
)

CALLS = {
    "multimax.parameter_groups": (
        lambda model, weight_decay, lr: torch.tensor(
            [[g["weight_decay"], g.get("lr", 0)] for g in multimax.parameter_groups(model, weight_decay, lr)]
        ),
        lambda model, weight_decay, lr: torch.tensor([[weight_decay, 0.0], [0, 0], [0, lr or 0]]),
        {"model": MODEL, "weight_decay": 0.1, "lr": 0.01},
    ),
    "multimax.clip_gradients": (
        lambda model, max_norm: multimax.clip_gradients(differentiated(model), max_norm),
        lambda model, max_norm: torch.stack(
            [p.grad.double().norm() for p in differentiated(model).parameters()]
        ).norm(),
        {"model": MODEL, "max_norm": 1e9},
    ),
    "multimax.is_reweighting": (
        lambda parameter: torch.tensor(float(multimax.is_reweighting(parameter))),
        lambda parameter: torch.tensor(float(parameter is MODEL[1].ranges)),
        {"parameter": MODEL[1].ranges},
    ),
    "multimax.convert": (
        converted,
        lambda **_: torch.tensor(1.0),
        {"model": nn.TransformerEncoderLayer(4, 2, 4), "name": "sparsemax", "where": "self*"},
    ),
    "reweight.register": (
        lambda name, **traits: torch.tensor(float(len(register(name, **traits)))),
        lambda name, **traits: torch.tensor(float(len(reweight.available()))),
        {"name": "mine", "positive": False, "can_be_zero": True, "sums_to_one": True, "needs_length": False}
        | {"row_kernel": None},
    ),
    "reweight.Modulated": (
        lambda normaliser, modulator: reweight.Modulated(normaliser, modulator)(SCORES),
        lambda normaliser, modulator: normaliser(modulator(SCORES.double())),
        {"normaliser": reweight.create("sparsemax"), "modulator": reweight.ELU()},
    ),
    **{
        f"reweight.{ask}": (
            lambda name, ask=ask: torch.tensor(float(bool(getattr(reweight, ask)(name)))),
            lambda name: torch.tensor(1.0),
            {"name": "multimax"},
        )
        for ask in ("get", "traits", "options", "at_the_output")
    },
    "reweight.segment": (
        reweight.segment,
        plain_segments,
        {
            "function": "sparsemax",
            "scores": SCORES,
            "index": torch.tensor([1, 0, 1]),
            "ptr": None,
            "num_segments": 2,
        },
    ),
    "reweight.segment of ptr": (
        reweight.segment,
        plain_segments,
        {
            "function": "sparsemax",
            "scores": SCORES,
            "index": None,
            "ptr": torch.tensor([0, 1, 3]),
            "num_segments": 2,
        },
    ),
    "distributions.Categorical": (
        lambda scores, reweight, mask: Categorical(scores, reweight, mask).probs,
        lambda scores, reweight, mask: Categorical(scores.detach().double(), reweight, mask).probs,
        {"scores": SCORES, "reweight": "sparsemax", "mask": torch.tensor([True, False, True, True])},
    ),
    "distributions.Categorical.log_prob": (
        Categorical(SCORES).log_prob,
        lambda value: torchs("log_prob")(value=value.detach()),
        {"value": torch.tensor([[0, 1, 3], [2, 2, 2]])},
    ),
    "distributions.Categorical.sample": (
        lambda sample_shape: Categorical(SCORES).sample(sample_shape) * 0.0,
        zeros_of,
        {"sample_shape": (2, 1)},
    ),
    "distributions.Categorical.rsample": (
        lambda sample_shape, temperature: Categorical(SCORES).rsample(sample_shape, temperature=temperature) * 0,
        lambda sample_shape, temperature: zeros_of(sample_shape, (4,)),
        {"sample_shape": (2, 1), "temperature": 0.5},
    ),
    "distributions.Categorical.expand": (
        lambda batch_shape: Categorical(SCORES).expand(batch_shape).probs,
        lambda batch_shape: torch.softmax(SCORES.double(), -1).expand(*batch_shape, 4),
        {"batch_shape": (2, 3)},
    ),
    "distributions.Categorical.enumerate_support": (
        lambda expand: Categorical(SCORES).enumerate_support(expand).double(),
        lambda expand: torchs("enumerate_support")(expand=expand),
        {"expand": True},
    ),
    "distributions.Categorical in KL": (
        lambda scores, others: kl_divergence(Categorical(scores), Categorical(others)).float(),
        lambda scores, others: kl_divergence(
            *(TorchsCategorical(logits=x.detach().double()) for x in (scores, others))
        ),
        {"scores": SCORES, "others": OTHERS},
    ),
    "compat.sparsemax": (compat.sparsemax, SPARSEMAX, ROWS | {"k": None}),
    "compat.entmax15": (compat.entmax15, ENTMAX15, ROWS | {"k": None}),
    "compat.sparsemax_bisect": (compat.sparsemax_bisect, SPARSEMAX, ROWS),
    "compat.entmax_bisect": (compat.entmax_bisect, ENTMAX, ROWS | {"alpha": ALPHA}),
    "compat.normmax_bisect": (compat.normmax_bisect, NORMMAX, ROWS | {"alpha": ALPHA}),
    "compat.budget_bisect": (compat.budget_bisect, BUDGET, ROWS | {"budget": 2}),
    "compat.Sparsemax": (of_module(compat.Sparsemax), SPARSEMAX, ROWS),
    "compat.Entmax15": (of_module(compat.Entmax15), ENTMAX15, ROWS),
    "compat.SparsemaxBisect": (of_module(compat.SparsemaxBisect), SPARSEMAX, ROWS),
    "compat.EntmaxBisect": (of_module(compat.EntmaxBisect), ENTMAX, ROWS | {"alpha": 1.5}),
    "compat.NormmaxBisect": (of_module(compat.NormmaxBisect), NORMMAX, ROWS | {"alpha": 1.5}),
    "compat.BudgetBisect": (of_module(compat.BudgetBisect), BUDGET, ROWS | {"budget": 2}),
    "compat.sparsemax_loss": (compat.sparsemax_loss, SPARSEMAX_LOSS, LOSS),
    "compat.entmax15_loss": (compat.entmax15_loss, ENTMAX15_LOSS, LOSS),
    "compat.sparsemax_bisect_loss": (compat.sparsemax_bisect_loss, SPARSEMAX_LOSS, LOSS),
    "compat.entmax_bisect_loss": (compat.entmax_bisect_loss, plain_entmax_loss, LOSS | {"alpha": ALPHA}),
    "compat.normmax_bisect_loss": (compat.normmax_bisect_loss, plain_normmax_loss, LOSS | {"alpha": ALPHA}),
    "compat.SparsemaxLoss": (*reduced(of_loss(compat.SparsemaxLoss), SPARSEMAX_LOSS), OF_LOSS),
    "compat.Entmax15Loss": (*reduced(of_loss(compat.Entmax15Loss), ENTMAX15_LOSS), OF_LOSS),
    "compat.SparsemaxBisectLoss": (*reduced(of_loss(compat.SparsemaxBisectLoss), SPARSEMAX_LOSS), OF_LOSS),
    "compat.EntmaxBisectLoss": (
        *reduced(of_loss(compat.EntmaxBisectLoss), plain_entmax_loss),
        OF_LOSS | {"alpha": 1.5},
    ),
    "compat.NormmaxBisectLoss": (
        *reduced(of_loss(compat.NormmaxBisectLoss), plain_normmax_loss),
        OF_LOSS | {"alpha": 2},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments(name):
    function, plain, right = CALLS[name]
    assert judge(function, plain, right, []) is None
    names = [*right, "no reweighting is named"]  # the error may name either of two arguments that do not fit together
    faults = [
        (judge(function, plain, arguments, names), arguments, changed)
        for arguments, changed in draws(right, 150, seed=1)
    ]
    faults = [fault for fault in faults if fault[0] is not None]
    assert not faults, f"{len(faults)}, such as: {faults[0]}"


ELSEWHERE = {
    "reweight/test_wrong_arguments.py": {
        *("softmax", "sparsemax", "entmax15", "entmax", "evsoftmax", "multimax", "seglu", "topk_softmax", "normmax"),
        *("stieltjes", "sigmoid", "relu", "softmax_plus_one", "softpick", "sa_softmax", "ELU", "SiLU", "SoftCap"),
        *("SegLU", "MultiMax", "ElasticSoftmax", "Entmax", "Entmax15", "EvSoftmax", "ScalableSoftmax", "Sink"),
        *("Softmax", "Sparsemax", "Temperature", "create"),
    },
    "test_attention_arguments.py": {"attention", "attention_weights", "linear_cross_entropy"},
}
NOTHING_TO_CALL = {
    *("__version__", "reweight", "MODULATORS", "row_kernels", "Traits", "available"),
    *("Modulator", "Reweighting"),  # base classes
}


def test_every_public_name_is_called(root):
    public = {*multimax.__all__, *reweight.__all__, *distributions.__all__, *compat.__all__}
    called = {name.split(" ")[0].split(".")[1] for name in CALLS}
    for file, names in ELSEWHERE.items():
        text = (root / "tests" / file).read_text()
        assert {name for name in names if f'"{name}"' not in text and f".{name}" not in text} == set(), file
        called |= names
    assert public - NOTHING_TO_CALL == called
