"""multimax.compat.entmax against the entmax package: names, arguments, values, gradients, documented differences."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import entmax as package
import pytest
import torch
from torch.autograd import gradcheck

from multimax import reweight
from multimax.compat import entmax as ours

N, C = 14, 11
LOSSES = [
    *(("SparsemaxLoss", ()), ("Entmax15Loss", ()), ("SparsemaxBisectLoss", ())),
    *(("EntmaxBisectLoss", (alpha,)) for alpha in (0.6, 1.3, 1.5, 2.4)),
    *(("NormmaxBisectLoss", (alpha,)) for alpha in (2, 3.0)),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def doubles(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_alike(ours, theirs, inputs, tolerance=1e-7):
    """Compare values and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    incoming = torch.randn_like(ours)
    gradients = (torch.autograd.grad(found, inputs, incoming) for found in (ours, theirs))
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


def test_every_public_name_has_its_arguments_and_defaults():
    names = {name for name, value in vars(package).items() if callable(value) and name[0] != "_"}
    assert names == set(ours.__all__)
    for name in names:
        mine, theirs = (inspect.signature(getattr(module, name)).parameters.values() for module in (ours, package))
        assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in theirs], name
    for module in ("activations", "losses", "root_finding"):
        of_module = {name for name in names if getattr(package, name).__module__ == f"entmax.{module}"}
        assert of_module == {name for name in names if getattr(ours, name).__module__ == f"{ours.__name__}.{module}"}


def test_it_is_imported_only_when_asked_for():
    code = "import sys, multimax; assert not [name for name in sys.modules if name.startswith('multimax.compat')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_functions_and_modules(dim):
    x = (2 * doubles(5, 6, 7)).requires_grad_()
    for name in ("sparsemax", "entmax15", "sparsemax_bisect", "entmax_bisect", "normmax_bisect", "budget_bisect"):
        weights = getattr(ours, name)(x, dim=dim)
        assert_alike(weights, getattr(package, name)(x, dim=dim), [x])
        module = {"sparsemax": "Sparsemax", "entmax15": "Entmax15"}.get(name) or name.title().replace("_", "")
        assert torch.equal(getattr(ours, module)(dim=dim)(x), weights)


@pytest.mark.parametrize("bounds", [(0.05, 0.95), (0.05, 2.5), (1, 2), (2, 3), (-2, -0.1)])
@pytest.mark.parametrize(
    ("dim", "shape"), [(2, (5, 6, 1)), (2, (6, 1)), (1, (5, 1, 7)), (0, (7,)), (-1, (1,)), (0, ())]
)
def test_entmax_at_alphas_in_any_shape(dim, shape, bounds):
    x = (2 * doubles(5, 6, 7)).requires_grad_()
    alpha = torch.empty(shape, dtype=torch.float64).uniform_(*bounds).requires_grad_()
    theirs = package.entmax_bisect(x, alpha, dim, n_iter=150)
    assert_alike(ours.entmax_bisect(x, alpha, dim), theirs, [x, alpha])


def test_entmax_below_1_is_stieltjes():
    """The weights are (1 - alpha)^-q (lambda - x)^-q with q = 1 / (1 - alpha)."""
    x = doubles(5, 9)
    for alpha in (0.75, torch.tensor(0.75)):
        torch.testing.assert_close(ours.entmax_bisect(x, alpha), reweight.stieltjes(x / 4, q=4.0))


def test_alphas_that_do_not_expand_are_refused():
    for function in (ours.entmax_bisect, ours.normmax_bisect, ours.budget_bisect):
        with pytest.raises(ValueError, match="expand"):
            function(doubles(5, 7), torch.full((7,), 1.5))


@pytest.mark.parametrize("shape", [(5, 1), (1,), ()])
def test_normmax_and_budget_in_any_shape(shape):
    x = (2 * doubles(5, 7)).requires_grad_()
    alpha, budget = (torch.empty(shape, dtype=torch.float64).uniform_(low, high) for low, high in ((1.2, 4), (0, 7)))
    assert_alike(ours.normmax_bisect(x, alpha), package.normmax_bisect(x, alpha, n_iter=150), [x])
    assert_alike(ours.budget_bisect(x, budget), package.budget_bisect(x, budget, n_iter=150), [x])
    for below in (0.5, torch.tensor([[0.5]] * 5)):
        with pytest.raises(ValueError, match=r"alpha must be above 1.*got 0.5"):
            ours.normmax_bisect(x, below)


def test_budgets_at_their_bounds_and_beyond():
    x = doubles(4, 6)
    x[:, 4:] = -torch.inf
    for budget, count in ((0, 0), (4, 4), (5, 4)):
        weights = ours.budget_bisect(x, budget)
        torch.testing.assert_close(weights, (torch.arange(6) < count).expand(4, 6).double())
    equal = torch.zeros(3, 8)
    torch.testing.assert_close(ours.budget_bisect(equal, 2), torch.full((3, 8), 0.25))
    assert torch.equal(ours.budget_bisect(torch.tensor([9.0, 5.0, 1.0]), 2), torch.tensor([1.0, 1.0, 0.0]))


def test_gradients_that_the_package_does_not_have():
    x, budget = doubles(4, 3, 6).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, budget: ours.budget_bisect(x, budget, dim=2), (x, budget))
    x, target = doubles(N, C).requires_grad_(), torch.randint(C, (N,))
    alpha = torch.linspace(0.5, 2.6, N, dtype=torch.float64)[:, None].requires_grad_()
    assert gradcheck(lambda x, alpha: ours.entmax_bisect_loss(x, target, alpha), (x, alpha))


def test_masked_by_infinities_entries_have_no_weight_and_a_row_of_them_is_nan():
    x = doubles(3, 8)
    x[0, 5:] = x[1, :3] = -torch.inf
    x[2] = -torch.inf
    for name in ("sparsemax", "entmax15", "sparsemax_bisect", "entmax_bisect", "normmax_bisect", "budget_bisect"):
        weights = getattr(ours, name)(x)
        assert (weights[:2][x[:2].isinf()] == 0).all()
        for row, live in ((0, x[0, :5]), (1, x[1, 3:])):
            torch.testing.assert_close(weights[row][x[row].isfinite()], getattr(ours, name)(live))
        assert weights[2].isnan().all() or name == "budget_bisect"
    (loss,) = ours.Entmax15Loss()(x[:1], torch.tensor([2])).reshape(1)
    torch.testing.assert_close(loss, ours.Entmax15Loss()(x[:1, :5], torch.tensor([2])))


@pytest.mark.parametrize(("name", "alpha"), LOSSES)
def test_losses(name, alpha):
    x, target = (2 * doubles(N, C)).requires_grad_(), torch.randint(C, (N,))
    for ignored in (-100, target[0]):
        for reduction in ("elementwise_mean", "sum", "none"):
            mine, theirs = (
                getattr(module, name)(*alpha, ignore_index=ignored, reduction=reduction)(x, target)
                for module in (ours, package)
            )
            assert_alike(mine, theirs, [x])
    function = {"SparsemaxLoss": "sparsemax_loss", "Entmax15Loss": "entmax15_loss"}.get(name)
    function = function or name.replace("BisectLoss", "_bisect_loss").lower()
    assert torch.equal(
        getattr(ours, function)(x, target, *alpha), getattr(ours, name)(*alpha, reduction="none")(x, target)
    )


def test_losses_of_many_columns_in_float32_are_those_in_float64():
    """They are computed in blocks of rows; the last block is shorter."""
    x, target = torch.randn(21, 30_000) * torch.logspace(-3, 1, 21)[:, None], torch.randint(30_000, (21,))
    target[:5] = x[:5].argmax(-1)
    for name in ("SparsemaxLoss", "Entmax15Loss"):
        loss = getattr(ours, name)(reduction="none")
        torch.testing.assert_close(loss(x, target), loss(x.double(), target).float(), rtol=1e-5, atol=1e-5)


def test_what_else_the_docs_say_differs():
    x, target = torch.randn(4, 5, dtype=torch.float16), torch.tensor([1, -100, 2, 0])
    loss = ours.SparsemaxLoss()(x, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ours.SparsemaxLoss()(x[[0, 2, 3]], target[[0, 2, 3]]))
    learned = ours.EntmaxBisect(torch.nn.Parameter(torch.tensor(1.5)))
    assert list(learned.state_dict()) == ["alpha"]
    learned(x.float())[:, 0].sum().backward()
    assert learned.alpha.grad != 0
    torch.testing.assert_close(ours.entmax_bisect(x.float(), 1), torch.softmax(x.float(), -1))
    with pytest.raises(ValueError, match="elementwise_mean"):
        ours.SparsemaxLoss(reduction="mean")
    with pytest.raises(TypeError, match="class indices"):
        ours.SparsemaxLoss()(x, torch.rand(4, 5))


def test_the_packages_own_tests_pass_but_for_those_of_private_functions():
    command = [sys.executable, Path(__file__).with_name("package_tests.py")]
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert "100 passed, 27 skipped" in result.stdout, result.stdout[-3000:] + result.stderr[-1000:]
