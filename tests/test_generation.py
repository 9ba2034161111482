import pytest
import torch

from multimax import reweight
from multimax.errors import UserError
from multimax.generation import adjust, generate
from multimax.models.language_model import LanguageModelConfig
from multimax.models.transformer_lm import TransformerLM
from multimax.models.transformer_xl import TransformerXL

CONFIG = LanguageModelConfig(depth=2, dim=12, num_heads=3, ffn_dim=10, segment_length=12, eval_memory_length=20)
PROMPT = torch.tensor([[3, 1, 4], [1, 5, 9]])


def build(kind, name):
    torch.manual_seed(0)
    model = kind(CONFIG, {"name": name}, {"name": name}, 17)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", [TransformerXL, TransformerLM])
@pytest.mark.parametrize("name", reweight.available())
def test_each_token_is_drawn_from_what_the_whole_text_before_it_gives(kind, name):
    model = build(kind, name)
    tokens = generate(model, PROMPT, 9, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    text = PROMPT
    for _ in range(9):
        hidden, _ = model.encode(text)
        weights = model.weights(hidden[:, -1])
        text = torch.cat([text, torch.multinomial(weights, 1, generator=generator)], 1)
        assert (weights.gather(1, text[:, -1:]) > 0).all()
    assert torch.equal(tokens, text[:, 3:])


def test_options_change_what_is_drawn_from():
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0]])

    def shares(**options):
        adjusted = adjust(weights, **options)
        return adjusted / adjusted.sum(-1, keepdim=True)

    torch.testing.assert_close(shares(), weights)
    torch.testing.assert_close(shares(temperature=0.5), weights**2 / (weights**2).sum())
    logits = torch.randn(1, 9)
    cooled = adjust(logits.softmax(-1), temperature=0.7)
    torch.testing.assert_close(cooled, (logits / 0.7).softmax(-1))
    torch.testing.assert_close(shares(top_k=2), torch.tensor([[4 / 7, 3 / 7, 0, 0, 0]]))
    torch.testing.assert_close(shares(top_p=0.65), torch.tensor([[4 / 7, 3 / 7, 0, 0, 0]]))
    torch.testing.assert_close(shares(top_p=0.75), torch.tensor([[4 / 9, 3 / 9, 2 / 9, 0, 0]]))
    torch.testing.assert_close(shares(temperature=0), torch.tensor([[1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(shares(temperature=1e-3), torch.tensor([[1.0, 0, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"num_tokens": 12}, "takes"),
    ],
)
def test_a_mistake_is_one_line(options, expected):
    with pytest.raises(UserError, match=expected) as caught:
        generate(build(TransformerLM, "softmax"), PROMPT, options.pop("num_tokens", 3), **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="empty"):
        generate(build(TransformerLM, "softmax"), PROMPT[:, :0], 3)
