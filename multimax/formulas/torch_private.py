"""All of torch's private names that the library uses, in one place. Tried with torch 2.11 and 2.15.

A new torch may change any of them without notice. Then this is the file to mend: tests/formulas/test_torch_private.py
checks that no other file uses any.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

F = TypeVar("F", bound=Callable[..., object])

# softmax's grad_input from (grad_output, output, dim, dtype), into ``grad_input=`` if given.
softmax_backward = torch._softmax_backward_data


def constant(function: F) -> F:
    """torch.compiler.assume_constant_result, which would import all of torch._dynamo first."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def is_exporting() -> bool:
    """Whether torch.export traces this call; torch 2.11's compiler takes torch's function to be always true."""
    return torch.compiler.is_exporting()


@constant
def is_autocast_available(device: str) -> bool:
    """Whether this type of device has autocast; torch 2.11's compiler cannot follow torch's own function."""
    return torch.amp.is_autocast_available(device)


def below_autograd() -> AbstractContextManager[object]:
    """A context in which operators record no graph and skip autograd's kernels."""
    return torch._C._AutoDispatchBelowAutograd()


@constant
def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is under way.

    In a graph of torch.compile, the answer is that of the time of tracing. Another transform makes torch retrace the
    graph, but dual numbers do not, which is why the operators check for those themselves.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None or has_dual_numbers()


@constant
def derivatives_under_way() -> int:
    """How many nested derivatives torch.func and forward mode are taking: 2 for a Hessian."""
    kind = torch._C._functorch.TransformType
    levels = [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]
    by_func = sum(level in (kind.Grad, kind.Jvp) for level in levels)
    return by_func + (has_dual_numbers() and kind.Jvp not in levels)


def has_dual_numbers() -> bool:
    """Whether forward-mode differentiation is under way."""
    return torch.autograd.forward_ad._current_level >= 0


def are_dual(*values: object) -> bool:
    """Whether any of these is a tensor with a tangent."""
    if not has_dual_numbers():
        return False
    tensors = (value for value in values if isinstance(value, torch.Tensor))
    return any(torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def is_watched() -> bool:
    """Whether a TorchDispatchMode, such as a FLOP counter or FakeTensorMode, sees each operator."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_batched(tensor: torch.Tensor) -> bool:
    """Whether a vmap goes over ``tensor``, including that of is_grads_batched, which torch.func does not see."""
    return "Batched" in str(torch._C._dispatch_keys(tensor))


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether the values of ``tensor`` can be read to decide what to compute, since nothing traces or batches them."""
    if torch.compiler.is_compiling() or is_watched():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return False
        tensor = functorch.get_unwrapped(tensor)
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type != "meta"


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether a hook is registered for calls of ``module``, so that a call is more than its ``forward``."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def tell_flop_counters(formulas: Mapping[Any, Callable[..., Any]]) -> None:
    """Give active FLOP counters the formulas of operators, each a function of the operator's arguments.

    ``register_flop_formula`` would only reach counters created later, and importing its module takes 0.3 s.
    """
    if torch.compiler.is_compiling() or not is_watched():
        return
    for mode in _get_current_dispatch_mode_stack():
        registry = getattr(getattr(mode, "counter", None), "flop_registry", None)
        if registry is not None:
            registry.update(formulas)
