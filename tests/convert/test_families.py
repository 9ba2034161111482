"""Converted models of other libraries give what they gave before at init="zero", and something else otherwise."""

import copy

import pytest
import torch
from torch import Tensor

import multimax
from multimax.convert.find import find
from scripts.convert_table import FAMILIES, PAGE, Family

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def output(model, inputs) -> Tensor:
    """The output at positions that are not padding."""
    result = model(**inputs)
    result = result if isinstance(result, Tensor) else result[0]
    padded = inputs.get("src_key_padding_mask")
    live = inputs.get("mask", inputs.get("attention_mask", None if padded is None else ~padded))
    return result if live is None or live.shape != result.shape[:2] else result[live.bool()]


def assert_same(one: Tensor, other: Tensor) -> None:
    assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library}-{family.name}")
def test_a_family(family: Family):
    pytest.importorskip(family.library.replace("-", "_"))
    model, inputs = family.build(), family.inputs()
    assert family.row(model) in PAGE.read_text(), "python -m scripts.convert_table writes the table anew"
    if all(site.obstacle for site in find(model)):
        with pytest.raises(ValueError, match="can be converted"):
            multimax.convert(model, "multimax")
        return
    stock = copy.deepcopy(model)
    conversion = multimax.convert(model, "multimax", init="zero")
    functions = [model.get_submodule(path).reweight for path in conversion.changed]

    for training in (True, False):
        model.train(training), stock.train(training)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                torch.manual_seed(1)  # for drop path
                expected = output(stock, inputs)
                torch.manual_seed(1)
                assert_same(output(model, inputs), expected)

    # Every function affects the output, and gives no weight to dead keys.
    for function in functions:
        torch.nn.init.constant_(function.ts, 0.01)
    seen: list[tuple[Tensor | None, Tensor]] = []

    def see(_, args, options, weights):
        seen.append((options.get("mask", args[1] if len(args) > 1 else None), weights))

    hooks = [function.register_forward_hook(see, with_kwargs=True) for function in functions]
    other = output(model, inputs)
    (other * torch.randn_like(other)).sum().backward()
    assert all(function.ts.grad.abs().max() > 0 for function in functions)
    assert len(seen) >= len(functions)
    assert any(mask is not None for mask, _ in seen) == family.masked
    assert all((weights.masked_fill(mask, 0) == 0).all() for mask, weights in seen if mask is not None)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        assert_same(output(model, inputs), other)
        conversion.undo()
        assert_same(output(model, inputs), expected)
    assert [type(module) for module in model.modules()] == [type(module) for module in stock.modules()]
    assert model.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library}-{family.name}")
def test_what_compiles_into_one_graph_does_so_converted(family: Family):
    pytest.importorskip(family.library.replace("-", "_"))
    torch.compiler.reset()  # functions shared by families are recompiled for each, up to a limit
    model, inputs = family.build(), family.inputs()
    try:
        torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")(**inputs)
        conversion = multimax.convert(model, "multimax")
    except (torch._dynamo.exc.TorchDynamoException, ValueError) as error:
        pytest.skip(f"{type(error).__name__}: as its library makes it, or not to be converted")
    for path in conversion.changed:
        torch.nn.init.constant_(model.get_submodule(path).reweight.ts, 0.01)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same(output(compiled, inputs), output(model, inputs))
