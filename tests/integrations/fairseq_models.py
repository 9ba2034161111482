"""Tiny fairseq models, and batches for them."""

from argparse import Namespace

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import base_architecture

from multimax.integrations.fairseq.models import (
    ReweightedLanguageModel,
    ReweightedLanguageModelConfig,
    ReweightedTransformer,
)

TINY = {
    "encoder_layers": 2,
    "encoder_embed_dim": 12,
    "encoder_ffn_embed_dim": 10,
    "encoder_attention_heads": 3,
    "decoder_layers": 2,
    "decoder_embed_dim": 12,
    "decoder_ffn_embed_dim": 10,
    "decoder_attention_heads": 3,
    "dropout": 0.0,
    "share_decoder_input_output_embed": True,
    "max_source_positions": 64,
    "max_target_positions": 64,
}


def dictionary(size=16):
    result = Dictionary()
    for i in range(size - len(result)):
        result.add_symbol(f"word{i}")
    return result


def task():
    return Namespace(source_dictionary=dictionary(), target_dictionary=dictionary())


def transformer(model=ReweightedTransformer, std=0.5, seed=0, **options):
    """A model of fairseq's or ours, with weights large enough that no distribution is nearly uniform."""
    arguments = Namespace(**{**TINY, "reweight": "softmax", **options})
    base_architecture(arguments)
    torch.manual_seed(seed)
    return scaled(model.build_model(arguments, task()), std)


def language_model(std=0.5, seed=0, model=ReweightedLanguageModel, **options):
    options = {key: value for key, value in TINY.items() if not key.startswith(("encoder", "max"))} | options
    config = ReweightedLanguageModelConfig(
        **options, tokens_per_sample=64, max_target_positions=64, add_bos_token=False
    )
    torch.manual_seed(seed)
    return scaled(model.build_model(config, task()), std)


def scaled(model, std):
    if std is not None:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def batch(lengths=(7, 4, 5), target_lengths=(6, 3, 5), padding="left", seed=0):
    """Sources padded as fairseq pads them, decoder inputs and targets, for dictionaries of 16 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def rows(sizes, side):
        result = torch.full((len(sizes), max(sizes)), 1)
        for row, size in zip(result, sizes, strict=True):
            words = torch.randint(4, 16, (size,), generator=generator)
            words[-1] = 2
            row[len(row) - size :] = words if side == "left" else row[len(row) - size :]
            if side == "right":
                row[:size] = words
        return result

    source, targets = rows(lengths, padding), rows(target_lengths, "right")
    previous = targets.roll(1, 1)
    previous[:, 0] = 2
    previous[targets == 1] = 1
    inputs = {"src_tokens": source, "src_lengths": torch.tensor(lengths), "prev_output_tokens": previous}
    counts = {"ntokens": sum(target_lengths), "nsentences": len(lengths)}
    return {"id": torch.arange(len(lengths)), "net_input": inputs, "target": targets, **counts}
