"""torch's transforms, tracers and fake tensors over attention and the losses, for every registered function."""

import pytest
import torch
from function_kinds import KINDS
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from multimax import reweight
from multimax.attention import BACKENDS, attention
from multimax.output_layer import linear_cross_entropy, linear_loss
from multimax.reweight import seglu

FUNCTIONS = reweight.available()
WITH_LOSS = [name for name in FUNCTIONS if reweight.get(name).has_loss]
LENGTHS = (4, 130)  # below and above the length from which blocks pay


def module_of(name):
    torch.manual_seed(0)
    module = reweight.create(name).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def attend(name, length, masked=False, **options):
    """Attention as a function of one tensor [1, 2, length, 3] and of the reweighting's parameters."""
    module = module_of(name)
    mask = torch.ones(length, length, dtype=torch.bool).tril() if masked else None

    def call(x, parameters=None):
        def weigh(scores, mask):
            return functional_call(module, parameters, (scores,), {"mask": mask})

        return attention(x, x.flip(-1), x.cos(), module if parameters is None else weigh, mask, **options)

    return call, dict(module.named_parameters())


def draw(length, batch=1):
    torch.manual_seed(1)
    return torch.randn(batch, 2, length, 3, dtype=torch.float64)


def numeric(f, x, tangent, step=1e-6):
    return (f(x + step * tangent) - f(x - step * tangent)) / (2 * step)


def check_tangent(found, f, x, tangent):
    """Compare with finite differences where few scores can be at a kink, and with the gradient, tested elsewhere."""
    if x.shape[-2] < 10:
        torch.testing.assert_close(found, numeric(f, x, tangent), rtol=1e-5, atol=1e-6)
    leaf = x.clone().requires_grad_()
    incoming = torch.randn_like(found)
    (gradient,) = torch.autograd.grad(f(leaf), leaf, incoming)
    torch.testing.assert_close((found * incoming).sum(), (gradient * tangent).sum())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_of_attention(name, length, masked):
    f, _ = attend(name, length, masked)
    x = draw(length)
    tangent = torch.randn_like(x)
    output, found = jvp(f, (x,), (tangent,))
    torch.testing.assert_close(output, f(x))
    check_tangent(found, f, x, tangent)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("length", LENGTHS)
def test_vmap_and_gradients_per_sample_of_attention(name, length):
    f, parameters = attend(name, length, True)
    x = draw(length, batch=3)
    torch.testing.assert_close(vmap(f)(x.unsqueeze(1)).squeeze(1), f(x))

    def loss(parameters, x):
        return f(x[None], parameters).square().sum()

    found = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        leaf = x[i].clone().requires_grad_()
        right = torch.autograd.grad(loss(parameters, leaf), [leaf, *parameters.values()])
        for one, other in zip((found[1][i], *(g[i] for g in found[0].values())), right, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_of_attention(name):
    f, _ = attend(name, 4, True)
    x = draw(4)
    torch.testing.assert_close(jacfwd(f)(x), jacrev(f)(x))

    def loss(x):
        return f(x).sin().sum()

    tangent = torch.randn_like(x)
    right = numeric(grad(loss), x, tangent, 1e-5)
    torch.testing.assert_close((hessian(loss)(x) * tangent).sum((-4, -3, -2, -1)), right, rtol=1e-4, atol=1e-5)
    leaf = x.clone().requires_grad_()
    backend = "reference" if name == "softmax" else None  # "sdpa" has no second derivative
    (first,) = torch.autograd.grad(attend(name, 4, True, backend=backend)[0](leaf).sin().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first, leaf, tangent)
    torch.testing.assert_close(second, right, rtol=1e-4, atol=1e-5)


TRANSFORMS = {
    "jvp": lambda f, x: jvp(f, (x,), (x.sin(),))[1],
    "vmap": lambda f, x: vmap(f)(x[None]),
    "grad": lambda f, x: grad(lambda x: f(x).square().sum())(x),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_a_backend_asked_for_by_name_says_that_it_cannot_be_transformed(backend, transform):
    name = "softmax" if backend == "sdpa" else "multimax"
    f, _ = attend(name, 130, backend=backend)
    with pytest.raises(ValueError, match=f"^backend '{backend}' cannot serve: .*$"):
        TRANSFORMS[transform](f, draw(130))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", KINDS)  # each takes seconds
def test_compiled_attention_has_the_right_tangent(name, length):
    """Even if the graph was first compiled without dual numbers."""
    torch.compiler.reset()
    f, _ = attend(name, length, **({"backend": "reference"} if name == "softmax" else {}))
    compiled = torch.compile(f, backend="eager")
    x = draw(length)
    tangent = torch.randn_like(x)
    for before in (False, True):
        if before:
            torch.compiler.reset()
            compiled(x)
        check_tangent(jvp(compiled, (x,), (tangent,))[1], f, x, tangent)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(compiled(forward_ad.make_dual(x, tangent))).tangent
        check_tangent(found, f, x, tangent)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tracers_of_attention(name, length, masked):
    f, _ = attend(name, length, masked)
    x = draw(length)
    torch.testing.assert_close(make_fx(lambda x: f(x))(x)(x), f(x))
    module = reweight.create(name)
    for device in ("fake", "meta"):
        module = module.to("meta" if device == "meta" else "cpu")
        with FakeTensorMode(allow_non_fake_inputs=True) if device == "fake" else torch.device("meta"):
            query = torch.empty(2, 4, length, 16)
            mask = torch.empty(length, length, dtype=torch.bool) if masked else None
            assert attention(query, query, query, module, mask, causal=True).shape == query.shape


class Model(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.reweight = module_of(name)

    def forward(self, x, mask=None):
        return attention(x, x, x, self.reweight, mask, causal=mask is None)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_attention_is_exported_with_a_dynamic_length(name, masked):
    model, length = Model(name), torch.export.Dim("length", min=2, max=4096)
    inputs, shapes = (draw(50),), ({2: length},)
    longer = (draw(200),)
    if masked:
        inputs, longer = ((x, torch.rand(x.shape[2], x.shape[2]) > 0.5) for (x,) in (inputs, longer))
        shapes = (*shapes, {0: length, 1: length})
    program = torch.export.export(model, inputs, dynamic_shapes=shapes)
    assert not any("multimax" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    torch.testing.assert_close(program.module()(*longer), model(*longer))


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace warns that lengths are looked at
@pytest.mark.parametrize("name", FUNCTIONS)
def test_attention_is_traced_by_torch_jit(name):
    model = Model(name)
    torch.testing.assert_close(torch.jit.trace(model, draw(5))(draw(5)), model(draw(5)))


def case(n=5, v=7):
    torch.manual_seed(2)
    hidden, weight = torch.randn(n, 4, dtype=torch.float64), torch.randn(v, 4, dtype=torch.float64)
    targets = torch.randint(v, (n,))
    targets[1] = -100
    return hidden, weight, targets


def losses(name):
    """The loss of an output layer and its expected value, as functions of hidden states and weights."""
    *_, targets = case()
    options = {"label_smoothing": 0.1}
    if name in ("plain", "modulated"):
        torch.manual_seed(0)
        parameters = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64) / 3
        modulator = (*parameters, 2) if name == "modulated" else None

        def expected(hidden, weight):
            logits = hidden @ weight.T
            return F.cross_entropy(seglu(logits, *parameters) if modulator else logits, targets, **options)

        return lambda hidden, weight: linear_cross_entropy(hidden, weight, targets, modulator, **options), expected
    module = module_of(name)
    return (
        lambda hidden, weight: linear_loss(module, hidden, weight, None, targets, **options),
        lambda hidden, weight: module.loss(hidden @ weight.T, targets, **options),
    )


LOSSES = ["plain", "modulated", *WITH_LOSS]


@pytest.mark.parametrize("name", LOSSES)
def test_transforms_of_the_loss(name):
    loss, expected = losses(name)
    hidden, weight, _ = case()
    tangent = torch.randn_like(hidden)
    right = numeric(lambda h: expected(h, weight), hidden, tangent)
    torch.testing.assert_close(jvp(lambda h: loss(h, weight), (hidden,), (tangent,))[1], right, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(jacfwd(loss)(hidden, weight), jacrev(expected)(hidden, weight))
    found, right = (hessian(f, argnums=1)(hidden, weight) for f in (loss, expected))
    torch.testing.assert_close(found, right)
    several = torch.stack([weight, weight / 2])
    torch.testing.assert_close(
        vmap(loss, in_dims=(None, 0))(hidden, several), torch.stack([expected(hidden, w) for w in several])
    )
    torch.testing.assert_close(
        vmap(grad(loss), in_dims=(None, 0))(hidden, several),
        torch.stack([jacrev(expected)(hidden, w) for w in several]),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_compiled_loss_has_the_right_tangent(name):
    loss, expected = losses(name)
    hidden, weight, _ = case()
    tangent = torch.randn_like(hidden)
    right = numeric(lambda h: expected(h, weight), hidden, tangent)
    compiled = torch.compile(lambda h: loss(h, weight), backend="eager")
    for before in (False, True):
        torch.compiler.reset()
        if before:
            compiled(hidden)
        torch.testing.assert_close(jvp(compiled, (hidden,), (tangent,))[1], right, rtol=1e-5, atol=1e-6)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(compiled(forward_ad.make_dual(hidden, tangent))).tangent
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_tracers_of_the_loss(name):
    loss, _ = losses(name)
    hidden, weight, _ = case()
    torch.testing.assert_close(make_fx(loss)(hidden, weight)(hidden, weight), loss(hidden, weight))

    class Loss(nn.Module):
        def forward(self, hidden, weight, targets):
            return linear_cross_entropy(hidden, weight, targets)

    for device in ("fake", "meta"):
        with FakeTensorMode() if device == "fake" else torch.device("meta"):
            shapes = torch.empty(5, 4), torch.empty(7, 4), torch.empty(5, dtype=torch.long)
            assert Loss()(*shapes).shape == ()


def test_the_loss_is_exported_with_a_dynamic_length():
    class Loss(nn.Module):
        def forward(self, hidden, weight, targets):
            return linear_cross_entropy(hidden, weight, targets)

    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(Loss(), case(), dynamic_shapes=({0: rows}, None, {0: rows}))
    longer = case(11)
    torch.testing.assert_close(program.module()(*longer), linear_cross_entropy(*longer))
