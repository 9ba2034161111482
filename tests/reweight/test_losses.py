"""Losses: what they have in common, the Fenchel-Young identities, and parity with other implementations."""

import entmax as package
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from multimax import reweight

N, C = 12, 7
FAMILY = [("sparsemax", {}), ("entmax15", {}), ("entmax", {"alpha": 1.25}), ("entmax", {"alpha": 1.01}), ("entmax", {})]


@pytest.fixture
def batch():
    """Scores [N, C] in float64, class indices [N], probabilities [N, C]."""
    generator = torch.Generator().manual_seed(5)
    scores = 2 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    index = torch.randint(C, (N,), generator=generator)
    soft = torch.rand(N, C, generator=generator, dtype=torch.float64) ** 4
    return scores.requires_grad_(), index, soft / soft.sum(-1, keepdim=True)


@pytest.fixture
def criterion(make):
    made = make(num_heads=None).double()
    if not made.has_loss:
        pytest.skip("declared to have no loss")
    return made


def test_hard_targets_are_soft_ones_with_all_the_mass_in_one_class(criterion, batch):
    scores, index, _ = batch
    one_hot = F.one_hot(index, C).double()
    torch.testing.assert_close(criterion.loss(scores, index), criterion.loss(scores, one_hot))


def test_label_smoothing_is_a_mixture_with_the_uniform_distribution(criterion, batch):
    scores, index, soft = batch
    for targets, dense in ((index, F.one_hot(index, C).double()), (soft, soft)):
        smoothed = criterion.loss(scores, targets, label_smoothing=0.1, reduction="none")
        torch.testing.assert_close(smoothed, criterion.loss(scores, 0.9 * dense + 0.1 / C, reduction="none"))


def test_gradient_is_linear_in_the_targets(criterion, batch):
    scores, index, soft = batch

    def gradient(targets):
        return torch.autograd.grad(criterion.loss(scores, targets), scores)[0]

    mixed = 0.3 * F.one_hot(index, C) + 0.7 * soft
    torch.testing.assert_close(gradient(mixed), 0.3 * gradient(index) + 0.7 * gradient(soft))


def test_reductions(criterion, batch):
    scores, index, soft = batch
    for targets in (index, soft):
        rows = criterion.loss(scores, targets, reduction="none")
        assert rows.shape == (N,)
        torch.testing.assert_close(criterion.loss(scores, targets, reduction="sum"), rows.sum())
        torch.testing.assert_close(criterion.loss(scores, targets), rows.mean())
    with pytest.raises(ValueError, match="median"):
        criterion.loss(scores, index, reduction="median")


@pytest.mark.parametrize("ignored", [-100, 3])
def test_ignored_rows_count_nowhere(criterion, batch, ignored):
    scores, index, _ = batch
    index = index.where(torch.arange(N) % 3 != 0, ignored)
    counted = index != ignored
    arguments = {"ignore_index": ignored, "label_smoothing": 0.1}
    loss = criterion.loss(scores, index, **arguments)
    torch.testing.assert_close(loss, criterion.loss(scores[counted], index[counted], label_smoothing=0.1))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert (gradient[~counted] == 0).all()
    rows = criterion.loss(scores, index, reduction="none", **arguments)
    assert (rows[~counted] == 0).all()


def test_loss_gradients(criterion, batch):
    scores, index, soft = batch
    inputs = (scores, *criterion.parameters())
    assert gradcheck(lambda scores, *_: criterion.loss(scores, index), inputs)
    soft = soft.clamp(min=0.01).requires_grad_()  # finite differences would go below zero
    assert gradcheck(lambda scores, soft, *_: criterion.loss(scores, soft), (scores, soft, *inputs[1:]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_the_float32_loss(make, dtype):
    criterion = make(num_heads=None)
    scores, index = torch.randn(N, C).to(dtype), torch.randint(C, (N,))
    if criterion.has_loss:
        loss = criterion.loss(scores, index)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, criterion.loss(scores.float(), index))


def test_extreme_scores_give_a_loss(criterion):
    scores = torch.tensor([[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [3e38, 3e38, -3e38]], requires_grad=True)
    loss = criterion.float().loss(scores, torch.tensor([0, 1, 1]))
    assert loss.isfinite()
    loss.backward()
    assert not scores.grad.isnan().any()


@pytest.mark.parametrize(("name", "options"), FAMILY)
def test_fenchel_young(name, options, batch):
    scores, index, soft = batch
    criterion = reweight.create(name, **options).double()
    weights = criterion(scores).detach()
    for targets, dense in ((index, F.one_hot(index, C)), (soft, soft)):
        rows = criterion.loss(scores, targets, reduction="none")
        assert torch.equal(rows > 1e-12, ((weights - dense).abs() > 1e-12).any(-1))
        assert (rows > -1e-12).all()
        (gradient,) = torch.autograd.grad(rows.sum(), scores)
        torch.testing.assert_close(gradient, weights - dense)
    at_minimum = criterion.loss(scores, weights, reduction="none")
    torch.testing.assert_close(at_minimum, torch.zeros_like(at_minimum), rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_soft_targets_differ_from_a_mixture_of_hard_ones_by_their_entropy(alpha, batch):
    scores, _, soft = batch
    criterion = reweight.create("entmax", alpha=alpha)
    hard = torch.stack([criterion.loss(scores, torch.full((N,), c), reduction="none") for c in range(C)], -1)
    entropy = ((soft - soft**alpha) / (alpha * (alpha - 1))).sum(-1)
    torch.testing.assert_close(criterion.loss(scores, soft, reduction="none"), (soft * hard).sum(-1) - entropy)


@pytest.mark.parametrize(
    ("name", "options", "peer"),
    [
        ("sparsemax", {}, package.SparsemaxLoss(reduction="none")),
        ("entmax15", {}, package.Entmax15Loss(reduction="none")),
        ("entmax", {"alpha": 1.25}, package.EntmaxBisectLoss(1.25, n_iter=80, reduction="none")),
    ],
)
def test_parity_with_the_entmax_package(name, options, peer, batch):
    scores, index, _ = batch
    ours = reweight.create(name, **options).loss(scores, index, reduction="none")
    theirs = peer(scores, index)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(rows.sum(), scores)[0] for rows in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_alpha_near_one_is_the_cross_entropy_with_a_sound_gradient_of_alpha(batch):
    scores, index, _ = batch
    criterion = reweight.create("entmax").double()
    losses, slopes = [], []
    for u in (-30.0, -25.0, -9.0):  # alpha - 1 = 9e-14, 1e-11, 1e-4
        criterion.u.data.fill_(u)
        loss = criterion.loss(scores, index)
        (gradient,) = torch.autograd.grad(loss, criterion.u)
        losses.append(loss)
        slopes.append(gradient / torch.sigmoid(criterion.u))
    torch.testing.assert_close(losses[0], F.cross_entropy(scores, index))
    change = (losses[2] - losses[0]) / torch.sigmoid(torch.tensor(-9.0, dtype=torch.float64))
    for slope in slopes:
        torch.testing.assert_close(slope.squeeze(), change, rtol=2e-3, atol=1e-4)


def test_cross_entropies(batch):
    scores, index, soft = batch
    for targets in (index, soft):
        expected = F.cross_entropy(scores, targets, label_smoothing=0.1)
        torch.testing.assert_close(reweight.create("softmax").loss(scores, targets, label_smoothing=0.1), expected)
    multimax = reweight.create("multimax").double()
    torch.testing.assert_close(multimax.loss(scores, index), F.cross_entropy(multimax.modulate(scores), index))


def test_evsoftmax_likelihood_is_that_of_its_form_with_epsilon(batch):
    scores, index, _ = batch
    rows = reweight.create("evsoftmax").loss(scores, index, reduction="none")
    weights = reweight.evsoftmax(scores, epsilon=1e-6)
    torch.testing.assert_close(rows, -weights[torch.arange(N), index].log())
