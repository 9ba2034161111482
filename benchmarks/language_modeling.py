"""Speed and memory of training steps of both language models, beside other implementations.

    python -m benchmarks.language_modeling [--device cuda] [--functions softmax multimax ...] [--quick]

transformer_lm is compared with fairseq's, if that is installed, and Transformer-XL with its
formula as the paper writes it, which has a position vector for each pair of a query and a key.
Both sides of a pair have the same weights and batch, and are checked to agree before they are
timed. A step is forward and backward.
"""

import copy
from argparse import Namespace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench import BOTH, Benchmark, program
from multimax import reweight
from multimax.attention import attention
from multimax.suite.fairseq.weights import to_fairseq
from multimax.suite.models.language_model import LanguageModelConfig
from multimax.suite.models.transformer_lm import TransformerLM
from multimax.suite.models.transformer_xl import RelativeAttention, TransformerXL

NUM_TOKENS = 8192
SIZES = {"depth": 4, "dim": 256, "num_heads": 8, "ffn_dim": 1024, "dropout": 0.0}


class PlainAttention(RelativeAttention):
    """The scores as the paper writes them, with a vector for each query's distance to each key."""

    def forward(
        self, x: Tensor, before: Tensor, positions: Tensor, mask: Tensor, content_bias: Tensor, position_bias: Tensor
    ) -> Tensor:
        query = self.split_heads(self.query(x))
        key, value = (self.split_heads(part) for part in self.key_value(torch.cat([before, x], 1)).chunk(2, -1))
        keys = torch.arange(len(positions), device=x.device)
        distance = (keys[before.shape[1] :, None] - keys).clamp(min=0)
        relative = self.split_heads(self.position(positions.flip(0)))[:, distance]  # [heads, queries, keys, head_dim]
        scale = query.shape[-1] ** -0.5
        bias = torch.einsum("bhqd,hqkd->bhqk", query + position_bias[:, None], relative) * scale
        out = attention(query + content_bias[:, None], key, value, self.reweight, mask, bias=bias, scale=scale)
        return self.projection(out.transpose(-3, -2).flatten(-2))


def plain_formula(model: TransformerXL) -> TransformerXL:
    """The same model with the same weights, but with scores computed by the plain formula."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        block.attention.__class__ = PlainAttention
    return model


def fairseq_model(model: TransformerLM) -> nn.Module:
    """fairseq's TransformerLanguageModel with the weights of ``model``; its logits are ``result(tokens)[0]``.

    Token 1 is its padding. Raises ImportError where fairseq is not installed.
    """
    from fairseq.data import Dictionary
    from fairseq.models.transformer_lm import TransformerLanguageModel, base_lm_architecture

    block, num_tokens = model.blocks[0], len(model.embedding.tables[0])
    dictionary = Dictionary()
    for i in range(num_tokens - len(dictionary)):
        dictionary.add_symbol(f"word{i}")
    arguments = Namespace(
        decoder_layers=len(model.blocks),
        decoder_embed_dim=model.dim,
        decoder_attention_heads=model.num_heads,
        decoder_ffn_embed_dim=block.feed_forward[0].out_features,
        dropout=0.0,
        attention_dropout=0.0,
        share_decoder_input_output_embed=True,
        decoder_normalize_before=True,
        tokens_per_sample=model.max_length,
        max_target_positions=model.max_length,
    )
    base_lm_architecture(arguments)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    theirs = TransformerLanguageModel.build_model(arguments, task)
    theirs.load_state_dict(to_fairseq(model))
    return theirs


def step(model: nn.Module, tokens: Tensor, *memory: Tensor) -> None:
    model(tokens, tokens, *memory)[0].backward()
    model.zero_grad()


def fairseq_step(model: nn.Module, tokens: Tensor) -> None:
    F.cross_entropy(model(tokens)[0].flatten(0, 1), tokens.flatten(), reduction="sum").backward()
    model.zero_grad()


def run(benchmark: Benchmark) -> None:
    device = benchmark.device
    batch_size, length = (1, 5) if benchmark.quick else (4, 128)
    # Token 1 is padding for fairseq.
    tokens = torch.randint(2, NUM_TOKENS, (batch_size, length), device=device)
    case = f"{batch_size} x {length} tokens"
    measure = partial(benchmark.measure, direction=BOTH, units=tokens.numel())
    for name in benchmark.arguments.functions:
        site, output = {"name": name}, {"name": reweight.at_the_output(name)}
        if name == "softmax":
            config = LanguageModelConfig("transformer_lm", **SIZES, segment_length=length)
            lm = TransformerLM(config, site, output, NUM_TOKENS).to(device)
            try:
                theirs = fairseq_model(lm).to(device)
            except ImportError as error:
                benchmark.leave_out(f"fairseq is not installed ({error})")
            else:
                logits = lm.embedding.scores(0, lm.encode(tokens)[0])
                torch.testing.assert_close(theirs(tokens)[0], logits, rtol=1e-3, atol=1e-3)
                calls = [partial(fairseq_step, theirs, tokens), partial(step, lm, tokens)]
                measure("transformer_lm", case, names=[(name, "fairseq"), (name, "ours")], calls=calls)
        config = LanguageModelConfig("transformer_xl", **SIZES, memory_length=length, segment_length=length)
        xl = TransformerXL(config, site, output, NUM_TOKENS).to(device)
        _, memory = xl(tokens, tokens)
        plain = plain_formula(xl)
        torch.testing.assert_close(plain.encode(tokens, memory)[0], xl.encode(tokens, memory)[0], rtol=1e-3, atol=1e-4)
        calls = [partial(step, model, tokens, memory) for model in (plain, xl)]
        measure("transformer_xl", case, names=[(name, "plain formula"), (name, "ours")], calls=calls)


main = program("language_modeling", __doc__, run)

if __name__ == "__main__":
    main()
