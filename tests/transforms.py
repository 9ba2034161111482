"""What torch can do to a function besides calling it, each compared with plain calls or reverse-mode derivatives.

``TRANSFORMS`` maps names to functions of ``(f, inputs)``: ``inputs`` are one or more float64 tensors, which ``f`` maps
to one. Each function yields pairs of what the transform gives and what it should give. Those in ``ROWWISE`` also need
``f`` to treat each slice along the first dimension of its first input by itself. ``compiled`` is of the same kind as
``TRANSFORMS``, but takes seconds.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, jacobian
from torch.fx.experimental.proxy_tensor import make_fx

Function = Callable[..., Tensor]
Pairs = Iterator[tuple[Tensor, Tensor]]


def directions(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs)


def along(f: Function, inputs: tuple[Tensor, ...], vectors: tuple[Tensor, ...]) -> Tensor:
    """The derivative of ``f`` along ``vectors``, from rows of its Jacobian."""
    output = f(*inputs)
    parts = zip(jacobian(f, inputs), vectors, strict=True)
    return sum(((j * v).flatten(output.dim()).sum(-1) for j, v in parts), torch.zeros_like(output))


def scalar(f: Function) -> Function:
    def weighted(*inputs: Tensor) -> Tensor:
        output = f(*inputs)
        return (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum()

    return weighted


def every(inputs: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(inputs)))


def jvp(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    vectors = directions(inputs)
    yield torch.func.jvp(f, inputs, vectors)[1], along(f, inputs, vectors)


def jvp_of_one(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    for i, vector in enumerate(directions(inputs)):

        def of_one(x: Tensor, i: int = i) -> Tensor:
            return f(*inputs[:i], x, *inputs[i + 1 :])

        yield torch.func.jvp(of_one, (inputs[i],), (vector,))[1], along(of_one, (inputs[i],), (vector,))


def dual_numbers(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    vectors = directions(inputs)
    with forward_ad.dual_level():
        output = f(*map(forward_ad.make_dual, inputs, vectors))
        tangent = forward_ad.unpack_dual(output).tangent
    assert tangent is not None, "the tangent is lost"
    yield tangent, along(f, inputs, vectors)


def dual_numbers_in_the_backward(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    """The forward has seen none."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = f(*leaves)
    incoming, tangent = directions((output, output))
    with forward_ad.dual_level():
        found = torch.autograd.grad(output, leaves, forward_ad.make_dual(incoming, tangent), retain_graph=True)
        tangents = [forward_ad.unpack_dual(gradient).tangent for gradient in found]
    yield from zip(tangents, torch.autograd.grad(output, leaves, tangent), strict=True)


def batched_gradients(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = f(*leaves)
    incoming = directions((output, output))
    one_by_one = [torch.autograd.grad(output, leaves, each, retain_graph=True) for each in incoming]
    for graph in (False, True):
        found = torch.autograd.grad(
            output, leaves, torch.stack(incoming), is_grads_batched=True, create_graph=graph, retain_graph=True
        )
        for gradients, *expected in zip(found, *one_by_one, strict=True):
            yield gradients, torch.stack(expected)


def jacfwd_and_jacrev(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    expected = jacobian(f, inputs)
    for transform in (torch.func.jacfwd, torch.func.jacrev):
        yield from zip(transform(f, every(inputs))(*inputs), expected, strict=True)


def hessians(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    of, argnums = scalar(f), every(inputs)
    expected = hessian(of, inputs)
    twice_forward = torch.func.jacfwd(torch.func.jacfwd(of, argnums), argnums)
    reverse_over_forward = torch.func.jacrev(torch.func.jacfwd(of, argnums), argnums)
    for transform in (torch.func.hessian(of, argnums), twice_forward, reverse_over_forward):
        for row, expected_row in zip(transform(*inputs), expected, strict=True):
            yield from zip(row, expected_row, strict=True)


def compiled(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    """Compile a function that holds a transform, and transform a function that is already compiled."""
    vectors = directions(inputs)
    expected = along(f, inputs, vectors)
    inside = torch.compile(lambda *x: torch.func.jvp(f, x, vectors)[1], backend="eager", fullgraph=True)
    yield inside(*inputs), expected
    outside = torch.compile(f, backend="eager")
    yield outside(*inputs), f(*inputs)
    yield torch.func.jvp(outside, inputs, vectors)[1], expected
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(outside(*map(forward_ad.make_dual, inputs, vectors))).tangent
    assert tangent is not None, "the tangent is lost"
    yield tangent, expected


def traced(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    """Run a graph of make_fx on numbers that it was not traced with."""
    others = tuple(x + 0.1 * v for x, v in zip(inputs, directions(inputs), strict=True))
    for mode in ("real", "fake", "symbolic"):
        yield make_fx(f, tracing_mode=mode, _allow_non_fake_inputs=True)(*inputs)(*others), f(*others)


def vmap(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    first, *rest = inputs
    dims = (0, *(None for _ in rest))
    yield torch.func.vmap(f, dims)(*inputs), f(*inputs)
    yield torch.func.vmap(f, (-1, *dims[1:]))(first.movedim(0, -1), *rest), f(*inputs)


def vmap_over_parameters(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    for i in range(1, len(inputs)):
        several = torch.stack([inputs[i] * c for c in (0.5, 1.0, 1.5)])
        dims = tuple(0 if j == i else None for j in range(len(inputs)))
        one_by_one = [f(*inputs[:i], x, *inputs[i + 1 :]) for x in several]
        yield torch.func.vmap(f, dims)(*inputs[:i], several, *inputs[i + 1 :]), torch.stack(one_by_one)


def per_sample_gradients(f: Function, inputs: tuple[Tensor, ...]) -> Pairs:
    of, (first, *rest) = scalar(f), inputs
    found = torch.func.vmap(torch.func.grad(of, every(inputs)), (0, *(None for _ in rest)))(*inputs)
    for sample, *gradients in zip(first, *found, strict=True):
        leaves = [x.detach().clone().requires_grad_() for x in (sample, *rest)]
        yield from zip(gradients, torch.autograd.grad(of(*leaves), leaves), strict=True)


IN_THE_BACKWARD = (dual_numbers_in_the_backward, batched_gradients)
TRANSFORMS = {
    transform.__name__: transform
    for transform in (jvp, jvp_of_one, dual_numbers, *IN_THE_BACKWARD, jacfwd_and_jacrev, hessians, traced)
}
ROWWISE = {transform.__name__: transform for transform in (vmap, vmap_over_parameters, per_sample_gradients)}
