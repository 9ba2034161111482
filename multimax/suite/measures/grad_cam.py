"""Grad-CAM: which patches are evidence for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017, arXiv
1610.02391. With A_k channel k of a layer's output over the patches and y the score of a class,

    alpha_k = mean over patches of dy/dA_k,      map = relu(sum over k of alpha_k A_k).

The layer is the last one whose patches the classifier sees. With average pooling that is the final norm. With a class
token, the patches that leave the last block go nowhere, so it is the norm before the last block's attention.
"""

from typing import Any

import torch
from torch import Tensor, nn

from multimax.suite.models.deit import ImageClassifier


def target_layer(model: ImageClassifier) -> nn.Module:
    backbone: Any = model.backbone
    return backbone.blocks[-1].norm1 if backbone.global_pool == "token" else backbone.norm


def grad_cam(model: ImageClassifier, images: Tensor, classes: Tensor) -> Tensor:
    """Maps [batch, rows, columns], not negative, of images [batch, channels, height, width] for classes int64 [batch].

    Scores are those before the output's reweighting, as the paper's are before softmax.
    """
    outputs: list[Tensor] = []
    hook = target_layer(model).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with hook, torch.enable_grad():
        scores = model(images)
        (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), outputs)
    prefix = model.backbone.num_prefix_tokens
    alpha = gradient[:, prefix:].mean(1, keepdim=True)
    maps = (alpha * outputs[0][:, prefix:]).sum(-1).relu().detach()
    return maps.unflatten(1, model.backbone.patch_embed.grid_size)
