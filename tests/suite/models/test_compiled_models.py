"""torch.compile takes training steps (forward, loss, backward) without a graph break."""

import pytest
import torch
from function_kinds import KINDS

from multimax import reweight
from multimax.suite.models.deit import DeiTConfig, create_deit
from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM
from multimax.suite.models.transformer_xl import TransformerXL

VOCABULARY = 30
TEXT = {"depth": 1, "dim": 16, "num_heads": 2, "ffn_dim": 24, "dropout": 0.0, "segment_length": 9}


pytestmark = pytest.mark.usefixtures("small_fresh_graphs")


def output_of(name):
    return {"name": name if reweight.get(name).has_loss else "softmax"}


def deit(name):
    sizes = {"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
    config = DeiTConfig("deit_tiny_patch16_224", **sizes)
    model = create_deit(config, {"name": name}, output_of(name), image_size=32, in_chans=3, num_classes=5)
    images, targets = torch.randn(2, 3, 32, 32), torch.randint(5, (2,))
    return model, lambda step: step(images, targets)


def transformer_lm(name):
    model = TransformerLM(LanguageModelConfig(**TEXT), {"name": name}, output_of(name), VOCABULARY)
    tokens = torch.randint(VOCABULARY, (2, 9))
    return model, lambda step: step(tokens, tokens.roll(1))[0]


def transformer_xl(name):
    config = LanguageModelConfig(**TEXT, memory_length=4)
    model = TransformerXL(config, {"name": name}, output_of(name), VOCABULARY)
    tokens, memory = torch.randint(VOCABULARY, (2, 9)), torch.randn(1, 2, 4, 16)
    return model, lambda step: step(tokens, tokens.roll(1), memory)[0]


def translation(name):
    config = EncoderDecoderConfig(encoder_depth=1, decoder_depth=1, dim=16, num_heads=2, ffn_dim=24, dropout=0.0)
    sites = AttentionSites({"name": name}, {"name": name}, {"name": name})
    model = EncoderDecoder(config, sites, output_of(name), VOCABULARY, VOCABULARY)
    source, target = torch.randint(3, VOCABULARY, (2, 7)), torch.randint(3, VOCABULARY, (2, 6))
    mask = torch.arange(7) < torch.tensor([[7], [5]])
    return model, lambda step: step(source, mask, target, target.roll(1), 0.1)


CASES = [
    *((deit, name) for name in KINDS),
    *((build, name) for build in (transformer_lm, transformer_xl, translation) for name in ("multimax", "entmax")),
]


@pytest.mark.parametrize(("build", "name"), CASES)
def test_a_training_step_has_no_graph_break(build, name):
    torch.manual_seed(0)
    model, run = build(name)
    expected = run(model)
    right = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    loss = run(torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for (parameter, _), gradient, other in zip(model.named_parameters(), found, right, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5, msg=parameter)
