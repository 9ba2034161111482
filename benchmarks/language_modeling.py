"""Speed and memory of training steps of both language models beside others on the same weights and batch.

    python -m benchmarks.language_modeling [--device cuda] [--reweight softmax multimax ...] [--repeats 10]

transformer_lm stands beside fairseq's (where fairseq is installed), and Transformer-XL beside its formula without the
shift of rows: a position vector for each query and key. Both pairs are checked to agree before they are timed. Prints
one JSON object a line: median seconds of forward and backward, tokens per second, and on a GPU peak memory in bytes.
"""

import argparse
import copy
import json
import time
from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax import reweight
from multimax.attention import attention
from multimax.integrations.fairseq.weights import to_fairseq
from multimax.models.language_model import LanguageModelConfig
from multimax.models.transformer_lm import TransformerLM
from multimax.models.transformer_xl import RelativeAttention, TransformerXL

NUM_TOKENS = 8192
SIZES = {"depth": 4, "dim": 256, "num_heads": 8, "ffn_dim": 1024, "dropout": 0.0}


class PlainAttention(RelativeAttention):
    """The scores of the paper as they are written, with the vector of each query's distance to each key."""

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
    """The same model, with the same weights, that computes its scores by the formula."""
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


def measure(name: str, loss: Callable[[], Tensor], tokens: Tensor, repeats: int) -> None:
    """Print what a step of forward and backward takes."""
    on_gpu, seconds = tokens.is_cuda, []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + 2):
        started = time.perf_counter()
        loss().backward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    median = sorted(seconds[2:])[repeats // 2]
    result = {"name": name, "seconds": median, "tokens_per_second": tokens.numel() / median}
    print(json.dumps(result | ({"peak_memory_bytes": torch.cuda.max_memory_allocated()} if on_gpu else {})), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--reweight", nargs="+", default=["softmax", "multimax"], choices=reweight.available())
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    # Token 1 is padding for fairseq.
    tokens = torch.randint(2, NUM_TOKENS, (arguments.batch_size, arguments.length), device=arguments.device)
    length = arguments.length
    for name in arguments.reweight:
        site, output = {"name": name}, {"name": name if reweight.get(name).positive else "softmax"}
        config = LanguageModelConfig("transformer_lm", **SIZES, segment_length=length)
        lm = TransformerLM(config, site, output, NUM_TOKENS).to(arguments.device)
        measure(f"transformer_lm, {name}", lambda lm=lm: lm(tokens, tokens)[0], tokens, arguments.repeats)
        if name == "softmax":
            compare_with_fairseq(lm, tokens, arguments.repeats)
        config = LanguageModelConfig("transformer_xl", **SIZES, memory_length=length, segment_length=length)
        xl = TransformerXL(config, site, output, NUM_TOKENS).to(arguments.device)
        _, memory = xl(tokens, tokens)
        plain = plain_formula(xl)
        torch.testing.assert_close(plain.encode(tokens, memory)[0], xl.encode(tokens, memory)[0], rtol=1e-3, atol=1e-4)
        for label, model in (("transformer_xl", xl), ("plain formula of transformer_xl", plain)):
            measure(
                f"{label}, {name}",
                lambda model=model, memory=memory: model(tokens, tokens, memory)[0],
                tokens,
                arguments.repeats,
            )


def compare_with_fairseq(model: TransformerLM, tokens: Tensor, repeats: int) -> None:
    try:
        theirs = fairseq_model(model).to(tokens.device)
    except ImportError as error:
        print(f"fairseq's transformer_lm is left out: it is not installed ({error})")
        return
    logits = model.embedding.scores(0, model.encode(tokens)[0])
    torch.testing.assert_close(theirs(tokens)[0], logits, rtol=1e-3, atol=1e-3)

    def loss() -> Tensor:
        return F.cross_entropy(theirs(tokens)[0].flatten(0, 1), tokens.flatten(), reduction="sum")

    measure("fairseq's transformer_lm, softmax", loss, tokens, repeats)


if __name__ == "__main__":
    main()
