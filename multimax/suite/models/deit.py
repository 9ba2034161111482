"""DeiT (Touvron et al. 2021, 2012.12877) from timm, with any reweighting in its attention and on its logits.

timm builds the vision transformer and takes our attention as its ``attn_layer``. With softmax at the attention site it
keeps its own, so the model is timm's to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.layers import Attention, trunc_normal_
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.attention import attention
from multimax.integrations.sites import Site, create_site
from multimax.suite.errors import UserError
from multimax.suite.models.anti_smoothing import (
    AttnScale,
    FeatScale,
    PatchDiversification,
    mix_patches,
    patches_outside,
)
from multimax.suite.options import bounded, choice


@dataclass
class DeiTConfig:
    """A timm vision transformer; fields that are None keep the value of the timm model ``name``."""

    name: str = "deit_small_patch16_224"
    patch_size: int | None = bounded(1, default=None, limit=2**14)
    embed_dim: int | None = bounded(1, default=None, limit=2**20)
    depth: int | None = bounded(1, default=None, limit=10_000)
    num_heads: int | None = bounded(1, default=None, limit=2**20)
    class_token: bool = False
    # "avg" pools the tokens after the final norm, like MultiMax's authors; "token" is the class token, as in DeiT.
    pool: str = choice("avg", "token", default="avg")
    qkv_bias: bool = True
    drop_path: float = bounded(0, 1, default=0.0)
    # Initial weights: timm's, with standard deviation 0.02 at any width, or lecun's, which narrow models need.
    init: str = choice("timm", "lecun", default="timm")
    # Methods against over-smoothing (multimax.suite.models.anti_smoothing); patch_diversification takes any of its
    # losses.
    attn_scale: bool = False
    feat_scale: bool = False
    patch_diversification: list[str] = field(default_factory=list)


def reweighted_attention(site: Site, attn_scale: bool = False, feat_scale: bool = False) -> type[Attention]:
    """timm's self-attention with the reweighting of ``site`` in place of softmax, and optional scaling of its output.

    timm wants a class, not a factory. The parameters of timm's own attention keep their names.
    """

    class ReweightedAttention(Attention):
        def __init__(self, dim: int, num_heads: int = 8, **kwargs: Any):
            if kwargs.get("scale_norm") or kwargs.get("gated"):
                raise ValueError("reweighted attention has no norm or gate between the values and the projection")
            super().__init__(dim, num_heads=num_heads, **kwargs)
            self.reweight = create_site(site, num_heads)
            self.attn_scale = AttnScale(num_heads) if attn_scale else None
            self.feat_scale = FeatScale(dim) if feat_scale else None

        def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
            if is_causal or (attn_mask is not None and attn_mask.dtype != torch.bool):
                raise ValueError(
                    "attention takes a bool mask (True = may be attended to), neither is_causal nor a bias"
                )
            if attn_mask is not None and (attn_scale or feat_scale):
                raise ValueError("AttnScale and FeatScale are means over all tokens, and take no mask")
            batch, tokens, _ = x.shape
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            query, key, value = qkv.unbind(0)
            dropout = self.attn_drop.p if self.training else 0.0
            out = attention(self.q_norm(query), self.k_norm(key), value, self.reweight, attn_mask, dropout=dropout)
            if self.attn_scale is not None:
                out = self.attn_scale(out, value)
            out = self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, tokens, -1)))
            return out if self.feat_scale is None else self.feat_scale(out)

    return ReweightedAttention


class PatchProjection(nn.Conv2d):
    """A convolution over non-overlapping windows; on a GPU it is computed as the matrix product that it is.

    On an H100 cuDNN took ten times as long, mostly for the weight's gradient. On a CPU the result is timm's to the last
    bit.
    """

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> "PatchProjection":
        """A ``PatchProjection`` with the parameters of ``convolution``."""
        height, width = size = convolution.kernel_size
        if size != convolution.stride:
            raise ValueError(f"windows of {size} every {convolution.stride} are not next to each other")
        channels, bias = (convolution.in_channels, convolution.out_channels), convolution.bias is not None
        with torch.device("meta"):  # draws no random numbers
            projection = cls(*channels, (height, width), (height, width), bias=bias)
        projection.weight, projection.bias = convolution.weight, convolution.bias
        return projection

    def forward(self, images: Tensor) -> Tensor:
        return self.product(images) if images.is_cuda else super().forward(images)

    def product(self, images: Tensor) -> Tensor:
        """[batch, dim, rows, columns] of images [batch, channels, height, width], whole windows each way."""
        patches = images.unflatten(3, (-1, self.kernel_size[1])).unflatten(2, (-1, self.kernel_size[0]))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class ImageClassifier(nn.Module):
    """A backbone that computes class scores, and the reweighting that turns them into probabilities.

    ``diversification`` names losses of multimax.suite.models.anti_smoothing that are added to the classifier's.
    """

    of_classes = ("backbone.head.", "diversification.")

    def __init__(
        self,
        backbone: VisionTransformer,
        output: Site,
        label_smoothing: float = 0.0,
        diversification: Sequence[str] = (),
    ):
        super().__init__()
        self.backbone = backbone
        self.output = create_site(output)
        self.label_smoothing = label_smoothing
        self.diversification: PatchDiversification | None = None
        if diversification:
            self.diversification = PatchDiversification(diversification, backbone.embed_dim, backbone.num_classes)

    def layers(self) -> list[nn.Module]:
        return list(getattr(self.backbone, "blocks", ()))

    def adapted(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Adapt the weights of such a classifier, or of a timm vision transformer, to this image and patch size.

        Also returns what was resampled, in words. Raises UserError if only one of the two models has a class token.
        """
        if not isinstance(self.backbone, VisionTransformer):
            return state, []
        if not any(key.startswith("backbone.") for key in state):
            state = {f"backbone.{key}": value for key, value in state.items()}
        theirs = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
        given = "cls_token" in theirs
        if "pos_embed" in theirs and given != self.backbone.has_class_token:
            raise UserError(
                f"these weights have {'a' if given else 'no'} class token: set model.class_token={str(given).lower()} "
                f"model.pool={'token' if given else 'avg'}, or take others"
            )
        try:
            fitted = checkpoint_filter_fn(theirs, self.backbone, interpolation="bicubic")
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"these are not weights of such a vision transformer: {str(error).splitlines()[0]}"
            ) from None
        resampled = [
            f"{name}: resampled from {size(theirs[name])} to {size(fitted[name])}"
            for name in ("pos_embed", "patch_embed.proj.weight")
            if name in theirs and name in fitted and theirs[name].shape != fitted[name].shape
        ]
        rest = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        return rest | {f"backbone.{key}": value for key, value in fitted.items()}, resampled

    def forward(self, images: Tensor, targets: Tensor | None = None, box: Tensor | None = None) -> Tensor:
        """Scores [batch, classes] in float32, before the output site's reweighting; with targets, the summed loss.

        images [batch, channels, height, width]; targets int64 [batch] or probabilities [batch, classes]. With a
        ``box`` (multimax.suite.models.anti_smoothing.random_box) the patches in it come from the mirrored batch.
        """
        if targets is not None and self.diversification is not None:
            return self.diversified_loss(images, targets, box)
        scores = self.backbone(images).float()
        if targets is None:
            return scores
        return self.output.loss(scores, targets, label_smoothing=self.label_smoothing, reduction="sum")

    def diversified_loss(self, images: Tensor, targets: Tensor, box: Tensor | None) -> Tensor:
        assert self.diversification is not None
        backbone, smoothing = self.backbone, self.label_smoothing
        own, mixed, keeps = targets, targets, None
        if box is not None:
            keeps = patches_outside(box, backbone.patch_embed.grid_size[0])
            own = targets if targets.dim() == 2 else F.one_hot(targets, backbone.num_classes).float()
            share = keeps.float().mean()
            images, mixed = mix_patches(images, keeps), share * own + (1 - share) * own.flip(0)
        layers: Any = backbone.forward_intermediates(images, indices=[0], output_fmt="NLC")
        tokens, (first,) = layers
        scores = backbone.forward_head(tokens).float()
        loss = self.output.loss(scores, mixed, label_smoothing=smoothing, reduction="sum")
        return loss + self.diversification(first, tokens[:, backbone.num_prefix_tokens :], own, keeps, smoothing)


def create_deit(
    config: DeiTConfig,
    attention_site: Site,
    output_site: Site,
    *,
    image_size: int,
    in_chans: int,
    num_classes: int,
    label_smoothing: float = 0.0,
    drawn: bool = True,
) -> ImageClassifier:
    """Build the classifier. Initial weights, which take most of the time, are only computed if ``drawn``."""
    overrides: dict[str, Any] = {
        key: value
        for key in ("patch_size", "embed_dim", "depth", "num_heads")
        if (value := getattr(config, key)) is not None
    }
    if attention_site["name"] != "softmax" or config.attn_scale or config.feat_scale:
        overrides["attn_layer"] = reweighted_attention(attention_site, config.attn_scale, config.feat_scale)
    if not drawn:
        overrides["weight_init"] = "skip"
    if config.pool == "avg":
        overrides["fc_norm"] = False  # timm would move the norm after the pooling
    backbone = timm.create_model(
        config.name,
        img_size=image_size,
        in_chans=in_chans,
        num_classes=num_classes,
        class_token=config.class_token,
        global_pool=config.pool,
        qkv_bias=config.qkv_bias,
        drop_path_rate=config.drop_path,
        **overrides,
    )
    assert isinstance(backbone, VisionTransformer)
    backbone.patch_embed.proj = PatchProjection.of(backbone.patch_embed.proj)
    if drawn and config.init == "lecun":
        init_lecun(backbone)
    return ImageClassifier(backbone, output_site, label_smoothing, config.patch_diversification)


def init_lecun(backbone: VisionTransformer) -> None:
    """Draw linear weights with standard deviation 1 / sqrt(inputs), and positions as large as the patch embeddings.

    A layer then preserves the scale of its input (LeCun et al. 1998, "Efficient BackProp"). timm's 0.02 does so at a
    width of 2,500; at a width of 64, tokens and positions barely reach the output when training starts.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=module.in_features**-0.5)
    # torch draws the patch convolution so that inputs of variance 1 come out with variance 1/3.
    trunc_normal_(backbone.pos_embed, std=3**-0.5)


def size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
