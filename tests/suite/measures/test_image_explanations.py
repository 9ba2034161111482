"""Rollout against a plain loop, Grad-CAM against pytorch-grad-cam and a closed form."""

import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from multimax import reweight
from multimax.suite.measures.grad_cam import grad_cam, target_layer
from multimax.suite.measures.rollout import attention_rollout, patch_relevance
from multimax.suite.models.deit import DeiTConfig, create_deit

SIDE = 5  # in pixels, and in patches: each is one pixel


def classifier(name="multimax", pool="avg"):
    torch.manual_seed(0)
    config = DeiTConfig(
        name="deit_tiny_patch16_224", patch_size=1, embed_dim=12, depth=3, num_heads=3, init="lecun",
        class_token=pool == "token", pool=pool,
    )  # fmt: skip
    site = {"name": name}
    return create_deit(config, site, {"name": "softmax"}, image_size=SIDE, in_chans=1, num_classes=4).double().eval()


def images(count=2):
    return torch.randn(count, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["softmax", "sparsemax"])
def test_rollout_is_that_of_a_plain_loop(name):
    layers = [reweight.create(name)(torch.randn(2, 3, 6, 6, dtype=torch.float64)) for _ in range(3)]
    flow = attention_rollout(layers)
    for b in range(2):
        expected = [[float(i == j) for j in range(6)] for i in range(6)]
        for weights in layers:
            mean = [[sum(weights[b, h, i, j].item() for h in range(3)) / 3 for j in range(6)] for i in range(6)]
            mixed = [[mean[i][j] + (i == j) for j in range(6)] for i in range(6)]
            mixed = [[value / sum(row) for value in row] for row in mixed]
            expected = [[sum(mixed[i][k] * expected[k][j] for k in range(6)) for j in range(6)] for i in range(6)]
        torch.testing.assert_close(flow[b], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(flow.sum(-1), torch.ones(2, 6, dtype=torch.float64))


def test_rollout_without_mixing_is_the_identity():
    identity = torch.eye(4).expand(2, 3, 4, 4)
    torch.testing.assert_close(attention_rollout([identity] * 5), torch.eye(4).expand(2, 4, 4))


def test_what_patches_are_worth():
    flow = torch.rand(2, 5, 5)
    torch.testing.assert_close(patch_relevance(flow, 1, "token"), flow[:, 0, 1:])
    torch.testing.assert_close(patch_relevance(flow, 0, "avg"), flow.mean(1))
    torch.testing.assert_close(patch_relevance(flow, 1, "avg"), flow[:, 1:, 1:].mean(1))


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("name", ["softmax", "multimax"])
def test_grad_cam_is_that_of_its_package(name, pool):
    model, classes = classifier(name, pool), [3, 1]
    prefix = int(pool == "token")

    def to_channels(tokens):
        return tokens[:, prefix:].unflatten(1, (SIDE, SIDE)).permute(0, 3, 1, 2)

    with GradCAM(model, [target_layer(model)], reshape_transform=to_channels) as package:
        theirs = torch.from_numpy(package(images(), [ClassifierOutputTarget(c) for c in classes])).double()
    ours = grad_cam(model, images(), torch.tensor(classes))
    assert ours.shape == (2, SIDE, SIDE)
    assert ours.min() >= 0
    assert ours.amax((1, 2)).min() > 0
    least = ours.amin((1, 2), keepdim=True)
    # The package scales its maps in this way.
    ours = (ours - least) / (ours - least).amax((1, 2), keepdim=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_average_pooling_grad_cam_is_the_class_activation_map():
    """With average pooling, every patch has the gradient w_c / n.

    So the map is what each patch adds to the score, where that is positive.
    """
    model = classifier()
    outputs = []
    with model.backbone.norm.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        model(images())
    (tokens,), head = outputs, model.backbone.head
    added = (tokens @ head.weight[2]) / SIDE**2
    torch.testing.assert_close(grad_cam(model, images(), torch.tensor([2, 2])).flatten(1), added.relu())
    torch.testing.assert_close(model(images())[:, 2], added.sum(1).float() + head.bias[2].float())


def test_grad_cam_leaves_no_gradient_behind():
    model = classifier()
    grad_cam(model, images(), torch.tensor([0, 1]))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.backbone.norm._forward_hooks
