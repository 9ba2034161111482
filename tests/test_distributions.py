"""Categorical equals torch's for softmax, and stays sound where probabilities are zero."""

import math

import pytest
import torch
from torch.distributions import Categorical as Torchs
from torch.distributions import Independent, kl_divergence

from multimax import reweight
from multimax.distributions import Categorical

PROPER = [name for name in reweight.available() if reweight.get(name).sums_to_one]
MASK = torch.tensor([[True, True, False, True, True], [True, True, True, True, True]])


def drawn(*shape, seed=0):
    scores = 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.requires_grad_()


def test_softmaxs_is_torchs():
    scores, others, classes = drawn(3, 5), drawn(3, 5, seed=1), torch.tensor([[4, 0, 2], [1, 1, 3]])
    ours, theirs = Categorical(scores, "softmax"), Torchs(logits=scores)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    torch.testing.assert_close(ours.probs, theirs.probs)
    torch.testing.assert_close(ours.log_prob(classes), theirs.log_prob(classes))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(kl_divergence(ours, Categorical(others)), kl_divergence(theirs, Torchs(logits=others)))
    assert torch.equal(ours.enumerate_support(), theirs.enumerate_support())
    assert torch.equal(ours.mode, theirs.mode)
    torch.testing.assert_close(ours.logits, theirs.logits)
    gradients = [torch.autograd.grad(d.log_prob(classes).sum() + d.entropy().sum(), scores)[0] for d in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_it_expands_and_stands_inside_of_other_distributions_as_torchs():
    scores, classes = drawn(3, 5), torch.tensor([[4, 0, 2], [1, 1, 3]])
    ours, theirs = Categorical(scores, "softmax").expand((2, 3)), Torchs(logits=scores).expand((2, 3))
    assert ours.batch_shape == theirs.batch_shape
    assert ours.sample((7,)).shape == (7, 2, 3)
    torch.testing.assert_close(ours.log_prob(classes), theirs.log_prob(classes))
    joint = [Independent(d, 1).expand((4, 2)).log_prob(classes) for d in (ours, theirs)]
    torch.testing.assert_close(*joint)
    sparse = Categorical(torch.tensor([3.0, 2.5, -4.0]), "sparsemax").expand((2,))
    assert sparse.logits.shape == (2, 3)
    assert (sparse.logits[:, 2] == -math.inf).all()


def test_softmaxs_logarithms_do_not_underflow():
    assert Categorical(torch.tensor([0.0, -1000.0])).log_prob(torch.tensor(1)) == -1000


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PROPER)
def test_it_is_the_functions_distribution(name, masked):
    module, mask = reweight.create(name).double(), MASK if masked else None
    scores = drawn(2, 5)
    found = Categorical(scores, module, mask)
    weights = module(scores, mask)
    torch.testing.assert_close(found.probs, weights)
    for c in range(5):
        torch.testing.assert_close(found.log_prob(torch.tensor(c)), weights[:, c].log())
    entropy = -torch.special.xlogy(weights, weights).sum(-1)
    torch.testing.assert_close(found.entropy(), entropy)
    torch.testing.assert_close(kl_divergence(found, found), torch.zeros(2, dtype=torch.float64))
    gradient = torch.autograd.grad(found.entropy().sum() + found.log_prob(found.mode).sum(), scores)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", PROPER)
def test_samples_are_as_frequent_as_they_are_probable(name):
    torch.manual_seed(0)
    found = Categorical(drawn(2, 5), reweight.create(name).double(), MASK)
    for sample in (found.sample((20000,)), found.rsample((20000,), temperature=0.5).argmax(-1)):
        assert sample.shape == (20000, 2)
        frequencies = torch.stack([(sample == c).double().mean(0) for c in range(5)], -1)
        assert (frequencies - found.probs).abs().max() < 0.02
        assert (frequencies[found.probs == 0] == 0).all()
    assert found.sample().shape == (2,)


def test_zeros_have_no_logarithm_no_gradient_and_no_room():
    scores = torch.tensor([3.0, 2.5, -4.0], requires_grad=True)
    sparse, dense = Categorical(scores, "sparsemax"), Categorical(scores, "softmax")
    assert sparse.log_prob(torch.tensor(2)) == -math.inf
    assert not torch.autograd.grad(sparse.log_prob(torch.tensor(2)), scores, retain_graph=True)[0].any()
    assert kl_divergence(dense, sparse) == math.inf
    assert kl_divergence(sparse, dense).isfinite()
    assert torch.autograd.grad(kl_divergence(sparse, dense), scores)[0].isfinite().all()


@pytest.mark.parametrize("name", PROPER)
def test_straight_through_is_one_hot_with_the_gradient_of_the_probabilities(name):
    module, scores, values = reweight.create(name).double(), drawn(2, 5), torch.randn(2, 5, dtype=torch.float64)
    found = Categorical(scores, module)
    sample = found.rsample()
    assert ((sample.detach() - sample.detach().round()).abs() < 1e-12).all()
    torch.testing.assert_close(sample.sum(-1), torch.ones(2, dtype=torch.float64))
    gradients = [torch.autograd.grad((t * values).sum(), scores)[0] for t in (sample, module(scores))]
    torch.testing.assert_close(*gradients)


def test_gumbels_sample_is_inside_the_support_and_passes_gradients():
    scores = drawn(2, 5)
    found = Categorical(scores, "sparsemax")
    sample = found.rsample((7,), temperature=1.0)
    assert (sample[:, found.probs == 0] == 0).all()
    assert torch.autograd.grad(sample[..., 0].sum(), scores)[0].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(3), "sigmoid"), ValueError, "'sigmoid' do not sum to one"),
        ((torch.zeros(3), "softmx"), ValueError, "did you mean 'softmax'"),
        ((torch.zeros(3), torch.softmax), TypeError, "reweight must be a Reweighting or a name"),
        ((torch.zeros(2, 3), "softmax", torch.tensor([[True] * 3, [False] * 3])), ValueError, "at least one class"),
        ((torch.zeros(3).long(), "softmax"), TypeError, "scores must be floating point"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, error, words):
    with pytest.raises(error, match=words) as raised:
        Categorical(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(torch.tensor([0, 3]), ValueError), (torch.tensor(-1.5), ValueError), (1, TypeError)],
)
def test_only_classes_have_a_probability(value, error):
    with pytest.raises(error, match="value must be"):
        Categorical(torch.randn(3)).log_prob(value)


@pytest.mark.parametrize(
    ("temperature", "error"), [(0.0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("1", TypeError)]
)
def test_a_temperature_is_above_zero(temperature, error):
    with pytest.raises(error, match="temperature must be"):
        Categorical(torch.randn(3)).rsample(temperature=temperature)
