"""Our models draw every parameter's initial values from the same distribution as fairseq's models."""

import pytest
import torch

pytest.importorskip("fairseq", reason="the extra 'fairseq' is not installed")

from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel

from multimax.suite.fairseq.weights import to_fairseq
from multimax.suite.models.encoder_decoder import PAD, AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM
from tests.integrations.fairseq_models import language_model, transformer

SOFTMAX = {"name": "softmax"}
SIZES = {"dim": 64, "num_heads": 4, "ffn_dim": 192, "dropout": 0.0}
THEIRS = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {"embed_dim": 64, "ffn_embed_dim": 192, "attention_heads": 4}.items()
}
DRAWS = 40


def draw(build):
    """The values of each parameter in many models, by fairseq's names."""
    states = [build(seed) for seed in range(DRAWS)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def same_distribution(ours, theirs):
    """Whether the Kolmogorov-Smirnov distance fits equal distributions; constants must be equal."""
    if theirs.unique().numel() == 1:
        return torch.equal(ours.unique(), theirs.unique())
    edges = torch.cat([ours, theirs]).flatten().sort().values
    steps = [torch.searchsorted(values.flatten().sort().values, edges, right=True) for values in (ours, theirs)]
    distance = (steps[0] / ours.numel() - steps[1] / theirs.numel()).abs().max()
    return distance < 2.5 * (1 / ours.numel() + 1 / theirs.numel()) ** 0.5  # false by chance once in 100,000


def our_language_model(seed):
    torch.manual_seed(seed)
    config = LanguageModelConfig("transformer_lm", depth=2, segment_length=64, **SIZES)
    return to_fairseq(TransformerLM(config, SOFTMAX, SOFTMAX, 16))


def our_translation_model(seed):
    torch.manual_seed(seed)
    config = EncoderDecoderConfig(encoder_depth=2, decoder_depth=2, max_length=64, **SIZES)
    return to_fairseq(EncoderDecoder(config, AttentionSites(SOFTMAX, SOFTMAX, SOFTMAX), SOFTMAX, 16, 16))


def their_language_model(seed):
    options = {name: size for name, size in THEIRS.items() if name.startswith("decoder")}
    options |= {"decoder_input_dim": 64, "decoder_output_dim": 64, "decoder_normalize_before": True}
    model = language_model(std=None, seed=1000 + seed, model=TransformerLanguageModel, **options)
    return model.state_dict()


def their_translation_model(seed):
    return transformer(TransformerModel, std=None, seed=1000 + seed, **THEIRS).state_dict()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(our_language_model, their_language_model), (our_translation_model, their_translation_model)],
    ids=["transformer_lm", "transformer_iwslt_de_en"],
)
def test_every_parameter_is_drawn_as_fairseq_s(ours, theirs):
    ours, theirs = draw(ours), draw(theirs)
    for name in ours:
        pair = [ours[name], theirs[name]]
        if name.endswith(("embed_tokens.weight", "output_projection.weight")):
            # Leave out padding: its vector is zero in fairseq's models, and our language models have none.
            pair = [torch.cat([tensor[:, :PAD], tensor[:, PAD + 1 :]], 1) for tensor in pair]
        assert same_distribution(*pair), name
