import pytest
import timm
import torch
from function_kinds import KINDS

from multimax import reweight
from multimax.suite.models.deit import DeiTConfig, PatchProjection, create_deit
from multimax.suite.models.sites import count_parameters
from tests.suite.models.drawn import assert_drawn

SOFTMAX = {"name": "softmax"}
TINY = {"name": "deit_tiny_patch16_224", "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
SHAPE = {"image_size": 8, "in_chans": 3, "num_classes": 5}


def build(attention=SOFTMAX, output=SOFTMAX, seed=0, **overrides):
    torch.manual_seed(seed)
    shape = {key: overrides.pop(key, size) for key, size in SHAPE.items()}
    return create_deit(DeiTConfig(**{**TINY, **overrides}), attention, output, **shape)


@pytest.mark.parametrize(("class_token", "pool"), [(True, "token"), (False, "avg"), (True, "avg")])
def test_with_softmax_it_is_timms_own_to_the_last_bit(class_token, pool):
    ours = build(class_token=class_token, pool=pool).eval()
    torch.manual_seed(0)
    theirs = timm.create_model(
        TINY["name"],
        patch_size=4,
        embed_dim=24,
        depth=2,
        num_heads=3,
        img_size=8,
        num_classes=5,
        in_chans=3,
        class_token=class_token,
        global_pool=pool,
        **({"fc_norm": False} if pool == "avg" else {}),
    ).eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(ours(images), theirs(images))
    assert ours.backbone.state_dict().keys() == theirs.state_dict().keys()


def test_every_other_function_computes_its_attention_where_timm_has_softmax():
    """With softmax's formula as the reweighting, the materialised path equals timm's model."""

    def written_out(scores, mask=None):
        return torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)

    reweight.register("written_out_softmax")(written_out)
    ours, theirs = build({"name": "written_out_softmax"}).eval(), build().eval()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_runs_that_share_a_seed_start_from_the_same_weights(name):
    state, reference = build({"name": name}).state_dict(), build().state_dict()
    assert all(torch.equal(state[key], value) for key, value in reference.items())


def test_published_parameter_counts():
    with torch.device("meta"):
        small = create_deit(
            DeiTConfig(), {"name": "multimax"}, {"name": "multimax"}, image_size=224, in_chans=3, num_classes=1000
        )
        plain = create_deit(DeiTConfig(), SOFTMAX, SOFTMAX, image_size=224, in_chans=3, num_classes=1000)
        token = create_deit(
            DeiTConfig(class_token=True, pool="token"), SOFTMAX, SOFTMAX, image_size=224, in_chans=3, num_classes=1000
        )
    counts = count_parameters(small)
    assert (counts["attention"], counts["output"]) == (96, 8)
    assert counts["total"] - count_parameters(plain)["total"] == 104
    assert count_parameters(token)["total"] == 22_050_664  # DeiT's README: 22M


def test_the_output_site_has_its_own_parameters_and_a_gradient():
    model = build(output={"name": "multimax"})
    model(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])).backward()
    assert model.output.ts.grad.abs().sum() > 0


def test_initial_weights_are_those_of_deits_code():
    """``_init_weights`` of timm 0.3.2, which DeiT's training uses.

    It leaves the convolution of the patches with torch's initial weights.
    """
    model = build(patch_size=16, embed_dim=192, image_size=224, num_classes=100)
    for name, parameter in model.backbone.named_parameters():
        std = 0.0 if parameter.dim() == 1 else 0.02
        if name.startswith("patch_embed"):
            std = (3 * 3 * 16 * 16) ** -0.5
        assert_drawn(name, parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, std)


def test_lecuns_initial_weights_keep_the_size_of_the_tokens():
    """With timm's, a model this narrow starts with scores that barely depend on the image."""
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    spread = {init: build(init=init).eval()(images).std(0).mean().item() for init in ("timm", "lecun")}
    assert spread["lecun"] > 8 * spread["timm"]


def test_on_a_gpu_the_patches_are_projected_by_a_matrix_product():
    convolution = torch.nn.Conv2d(3, 5, (4, 2), (4, 2))
    projection = PatchProjection.of(convolution)
    images = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection.product(images), convolution(images))
    assert projection.weight is convolution.weight
    with pytest.raises(ValueError, match="next to each other"):
        PatchProjection.of(torch.nn.Conv2d(3, 5, 4, 2))
