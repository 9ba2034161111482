"""What converting promises besides outputs: where parameters are, all or nothing, and that it can be undone."""

import collections
import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import multimax
from multimax import reweight


class Attention(nn.Module):
    def __init__(self, num_heads: int = 2):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(8, 24)
        self.fused = True

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(*x.shape[:-1], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(-2)


class OwnSoftmax(nn.Module):
    def forward(self, x):
        return self.weights(x) @ x

    def weights(self, x):
        return own_softmax(x @ x.mT)


def own_softmax(scores):
    return scores.softmax(-1)


class Pooled(nn.Module):
    """Attention around other attention."""

    def __init__(self):
        super().__init__()
        self.inner = Attention()

    def forward(self, x):
        x = self.inner(x)
        return F.scaled_dot_product_attention(x, x, x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(Attention(), nn.LayerNorm(8), Attention(), OwnSoftmax())


@pytest.fixture
def x():
    return torch.randn(3, 5, 8)


def state(model: nn.Module) -> dict:
    return {name: (type(module), dict(vars(module))) for name, module in model.named_modules()}


def test_what_it_says(model):
    conversion = multimax.convert(model, "multimax")
    assert conversion.changed == ("0", "2")
    assert conversion.left == (("3", "its code has a softmax of its own"),)
    lines = str(conversion).splitlines()
    assert [line.split(maxsplit=2) for line in lines] == [
        ["0", "Attention", "multimax"],
        ["2", "Attention", "multimax"],
        ["3", "OwnSoftmax", "left: its code has a softmax of its own"],
    ]


@pytest.mark.parametrize("name", reweight.available())
def test_every_function_stands_in_for_softmax(name, model, x):
    multimax.convert(model, name)
    q, k, v = model[0].qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    expected = multimax.attention(q, k, v, model[0].reweight).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(model[0](x), expected)


def test_parameters_are_of_each_layer_and_in_the_state_dict(model, x):
    generator = torch.get_rng_state()
    plain = model.bfloat16().state_dict()
    multimax.convert(model, "entmax")  # one u per head
    assert torch.equal(torch.get_rng_state(), generator)
    added = {name: p for name, p in model.state_dict().items() if name not in plain}
    assert {name: (p.shape, p.dtype) for name, p in added.items()} == {
        f"{path}.reweight.u": (torch.Size([2]), torch.float32) for path in ("0", "2")
    }
    model.float()(x).sum().backward()
    assert all(p.grad is not None for p in model[0].reweight.parameters())


def test_layers_start_from_numbers_of_their_own(model):
    multimax.convert(model, "multimax")
    assert not torch.equal(model[0].reweight.ts, model[2].reweight.ts)


def test_half_of_a_model_and_then_the_other(model, x):
    first = multimax.convert(model, "multimax", where="0")
    assert first.left == (("2", "where does not match it"), ("3", "where does not match it"))
    second = multimax.convert(model, "sparsemax", where=lambda path: path == "2", inputs=x)
    assert second.left == (("0", "where does not match it"), ("3", "where does not match it"))
    assert (first.changed, second.changed) == (("0",), ("2",))
    first.undo()
    assert type(model[0]) is Attention
    assert isinstance(model[2].reweight, reweight.Sparsemax)
    with pytest.raises(RuntimeError, match="undone already"):
        first.undo()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("multimx",), ValueError, "did you mean 'multimax'"),
        (("multimax", None, {"ordr": 1}), TypeError, "did you mean 'order'"),
        (("multimax", None, {"order": 7}), (ValueError, TypeError), "order"),
        (("multimax", "encoder.*"), ValueError, "where='encoder.\\*' matches none of .*: 0, 2, 3"),
        (("multimax", 3), TypeError, "where must be a pattern or a function"),
        (("multimax", "3"), ValueError, "can be converted: 3: its code has a softmax of its own"),
    ],
)
def test_what_is_wrong_ends_in_a_line_and_changes_nothing(model, arguments, error, message):
    before = state(model)
    name, where, options = (*arguments, None, {})[:3] if len(arguments) < 3 else arguments
    with pytest.raises(error, match=message) as raised:
        multimax.convert(model, name, where if len(arguments) > 1 else None, **(options or {}))
    assert "\n" not in str(raised.value)
    assert state(model) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 3}, "inputs must be a tensor, a tuple or a mapping of keywords, got int"),
        ({"inputs": [torch.zeros(1, 5, 8)]}, "inputs must be a tensor, .* got list"),
        ({"inputs": {1: 2}}, "inputs must be a tensor, .* got dict"),
        ({"inputs": torch.zeros(1, 5, 7)}, "Sequential does not run with these inputs: RuntimeError: "),
        ({"inputs": {"inputs_embeds": 1}}, "Sequential does not run with these inputs: TypeError: .*inputs_embeds"),
        ({"inputs": ()}, "Sequential does not run with these inputs: TypeError: "),
        ({"where": lambda path: path.missing}, "where.'0'. must say whether to convert it, but failed: AttributeError"),
        ({"where": lambda: True}, "where.'0'. must say whether to convert it, but failed: TypeError"),
        ({"num_heads": 2}, "num_heads is no option of a function"),
    ],
)
def test_wrong_arguments_end_in_a_line_and_change_nothing(model, arguments, message):
    before = state(model)
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        multimax.convert(model, "multimax", **arguments)
    assert "\n" not in str(raised.value)
    assert state(model) == before


@pytest.mark.parametrize("kind", [dict, collections.UserDict])
def test_inputs_by_keywords(model, x, kind):
    """The processors of transformers do not return a dict."""
    assert multimax.convert(model, "multimax", inputs=kind(input=x)).changed == ("0", "2")


def test_where_nothing_is_found_inputs_are_named():
    with pytest.raises(ValueError, match="attends, as far as its code says; with inputs= it is run"):
        multimax.convert(nn.Linear(2, 2), "multimax")
    with pytest.raises(ValueError, match="attends, as far as its code says and a run shows"):
        multimax.convert(nn.Linear(2, 2), "multimax", inputs=torch.zeros(2))


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Softmax(-1)), "a model"])
def test_what_has_no_attention_is_refused(thing):
    with pytest.raises((ValueError, TypeError), match=r"attention of|attends|must be a torch.nn.Module"):
        multimax.convert(thing, "multimax")


def test_twice_is_refused(model):
    multimax.convert(model, "multimax", where="0")
    before = state(model)
    with pytest.raises(ValueError, match="0 of Sequential has been converted already"):
        multimax.convert(model, "multimax")
    assert state(model) == before


@pytest.mark.parametrize("refused", [{"reweight"}, {"reweight", "__class__"}])
def test_a_failure_halfway_leaves_the_model_as_it_was(model, refused):
    class Stubborn(Attention):
        def __setattr__(self, name, value):
            if name in refused:
                raise RuntimeError("no")
            super().__setattr__(name, value)

    model = nn.Sequential(Stubborn(), *model, Stubborn())
    before = state(model)
    with pytest.raises(RuntimeError, match="no"):
        multimax.convert(model, "multimax")
    assert state(model) == before


def test_undone_nothing_is_left_of_it(model, x):
    model.append(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)).eval()
    before, expected = state(model), model(x)
    conversion = multimax.convert(model, "multimax")
    model(x)
    conversion.undo()
    assert state(model) == before
    assert torch.equal(model(x), expected)


def test_undo_does_not_take_away_what_was_put_on_top(model, x):
    expected = model(x)
    model[0].register_buffer("own", torch.zeros(1))
    conversion = multimax.convert(model, "multimax")
    parametrize.register_parametrization(model[0], "own", nn.Identity())
    with pytest.raises(RuntimeError, match=r"the class of 0 is .* ParametrizedAttention: remove first"):
        conversion.undo()
    model(x)
    parametrize.remove_parametrizations(model[0], "own")
    conversion.undo()
    assert torch.equal(model(x), expected)


def test_copies_and_files(model, x):
    multimax.convert(model, "multimax")
    expected = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    fresh = nn.Sequential(Attention(), nn.LayerNorm(8), Attention(), OwnSoftmax())
    multimax.convert(fresh, "multimax")
    fresh.load_state_dict(model.state_dict())
    for other in (*copies, fresh):
        assert torch.equal(other(x), expected)
        assert other[0].reweight is not model[0].reweight
        assert isinstance(other[0], Attention)


def test_checkpointing_and_threads(model, x):
    multimax.convert(model, "multimax")
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for reentrant in (True, False):
        again = checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)
        model.zero_grad()
        again.square().sum().backward()
        for grad, parameter in zip(plain, model.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, grad)
    outputs: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: outputs.append(model(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 4
    assert all(torch.equal(output, model(x)) for output in outputs)


def test_a_module_that_turns_to_a_softmax_of_its_own_says_so(model, x):
    """Otherwise it would silently go on as a softmax model."""
    multimax.convert(model, "multimax")
    model[0].fused = False
    with pytest.raises(RuntimeError, match=r"Attention was converted to MultiMax, but took a softmax of its own"):
        model(x)


def test_attention_within_attention(x):
    with pytest.raises(ValueError, match="the model itself cannot be converted without inner"):
        multimax.convert(Pooled(), "multimax", where="")
    model = Pooled()
    conversion = multimax.convert(model, "multimax")
    assert conversion.changed == ("", "inner")
    nn.init.constant_(model.inner.reweight.ts, 0.5)
    inner = model.inner(x)
    expected = multimax.attention(inner, inner, inner, model.reweight)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_encoder_does_not_go_round_it_in_evaluation(batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=batch_first, dropout=0.0)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
    multimax.convert(encoder, "sparsemax")
    x, padded = torch.randn(3, 3, 8), torch.eye(3, dtype=torch.bool).cumsum(1).bool().roll(1, 1)
    padded[:, 0] = False
    trained = encoder.train()(x, src_key_padding_mask=padded)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(x, src_key_padding_mask=padded), trained)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph(model, x, training):
    model = nn.Sequential(model[0], nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, dropout=0.0)).train(training)
    multimax.convert(model, "multimax")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(compiled(x), model(x))
