"""Figure 1's points, the fit to MultiMax's, and the front.

Other tests of M and S are in test_sparsity.py.
"""

import pytest
import torch
import yaml

from multimax import reweight
from multimax.suite.measures.three_scores import fit_multimax, functions, pareto_front, points, three_scores


@pytest.fixture(scope="module")
def published(root):
    return yaml.safe_load((root / "results" / "claims.yaml").read_text())["figure1"]


@pytest.fixture(scope="module")
def fit(published):
    return fit_multimax(published["k"], *published["multimax_weights"])


def test_every_published_point_is_ours(published, fit):
    for name, values in published["multi_modality"].items():
        ours = points(functions(fit)[name], published["k"])
        assert ours.multi_modality.tolist() == pytest.approx(values, abs=published["tolerance"]), name
        expected = torch.exp(torch.tensor(-1.0)).item() if name == "softmax" else 1.0
        assert ours.sparsity.tolist() == pytest.approx([expected] * len(values), abs=published["tolerance"]), name


def test_the_fitted_parameters_are_those_of_a_multimax(published, fit):
    """A module with these parameters gives the published weights, up to the reported residual."""
    module = reweight.create("multimax").double()
    with torch.no_grad():
        module.ranges.copy_(fit.ranges)
        module.ts.copy_(fit.ts)
        weights = module(three_scores(published["k"]))
    largest, second = torch.tensor(published["multimax_weights"], dtype=torch.float64)
    residual = torch.stack([weights[:, 0] - largest, weights[:, 1] - second]).abs().max()
    assert residual.item() == pytest.approx(fit.residual, abs=1e-12)
    assert residual < 0.003  # as precisely as the points could be read


def test_a_fit_finds_weights_that_a_multimax_made():
    ranges, ts = torch.tensor([0.5, 3.0, 0.0, 5.0]).double(), torch.tensor([-1.0, -0.5, -0.2, -0.01]).double()
    k = [10.0, 9.0, 7.0, 5.0, 3.0]
    weights = reweight.multimax(three_scores(k), ranges, ts)
    assert fit_multimax(k, weights[:, 0].tolist(), weights[:, 1].tolist()).residual < 0.003


def test_the_front_is_what_nothing_beats():
    generator = torch.Generator().manual_seed(0)
    cloud = [tuple(point) for point in torch.randint(0, 12, (60, 2), generator=generator).tolist()]
    beaten = {a for a in cloud for b in cloud if a != b and b[0] >= a[0] and b[1] >= a[1]}
    assert pareto_front(cloud) == sorted(set(cloud) - beaten)
