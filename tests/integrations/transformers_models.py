"""Tiny models of the families in transformers, and inputs for them, without a download."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

transformers = __import__("pytest").importorskip("transformers", reason="needs the extra transformers")

VOCABULARY, LENGTH = 48, 9
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
ENCODER = {key: value for key, value in DECODER.items() if key not in ("num_key_value_heads", "head_dim")}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
IMAGES = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}


def tokens(batch: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))


def text() -> dict[str, Any]:
    """Two rows of tokens, the second padded on the right."""
    live = torch.ones(2, LENGTH, dtype=torch.long)
    live[1, -3:] = 0
    return {"input_ids": tokens(), "attention_mask": live}


def labelled() -> dict[str, Any]:
    return text() | {"labels": tokens()}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def images() -> dict[str, Any]:
    return {"pixel_values": noise(2, 3, 16, 16)}


def images_and_text() -> dict[str, Any]:
    return images() | text() | {"return_loss": True}


def speech() -> dict[str, Any]:
    return {"input_features": noise(2, 8, 64), "decoder_input_ids": tokens(), "labels": tokens()}


@dataclass
class Family:
    """``generates`` makes the inputs of ``generate``; None if the model does not generate."""

    model: str
    config: str
    options: dict[str, Any]
    inputs: Callable[[], dict[str, Any]] = labelled
    generates: Callable[[], dict[str, Any]] | None = None
    nested: dict[str, Any] = field(default_factory=dict)

    def model_class(self) -> Any:
        return getattr(transformers, self.model)

    def make_config(self) -> Any:
        torch.manual_seed(0)
        return getattr(transformers, self.config)(**self.options)


def decoder(name: str, **options: Any) -> Family:
    return Family(f"{name}ForCausalLM", f"{name}Config", DECODER | options, generates=left_padded)


def left_padded() -> dict[str, Any]:
    live = torch.ones(2, LENGTH, dtype=torch.long)
    live[1, :3] = 0
    return {"input_ids": tokens().where(live.bool(), 0), "attention_mask": live}


SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "eos_token_id": None}
        | {"pad_token_id": 0, "bos_token_id": 1},
        generates=left_padded,
    ),
    "llama": decoder("Llama"),
    "mistral": decoder("Mistral", sliding_window=4),
    "gemma2": decoder("Gemma2", **SLIDING, attn_logit_softcapping=2.0),
    "gemma3": Family("Gemma3ForCausalLM", "Gemma3TextConfig", DECODER | SLIDING, generates=left_padded),
    "qwen3": decoder("Qwen3"),
    "gpt-oss": decoder("GptOss", **SLIDING, num_local_experts=2, num_experts_per_tok=1),
    "bert": Family("BertForMaskedLM", "BertConfig", ENCODER),
    "roberta": Family("RobertaForMaskedLM", "RobertaConfig", ENCODER),
    "modernbert": Family(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        ENCODER | {"local_attention": 4, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "vit": Family("ViTModel", "ViTConfig", IMAGES | {"num_attention_heads": 4}, images),
    "t5": Family(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": None},
        generates=text,
    ),
    "bart": Family("BartForConditionalGeneration", "BartConfig", BART, generates=text),
    "marian": Family("MarianMTModel", "MarianConfig", BART, generates=text),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        BART | {"num_mel_bins": 8, "max_source_positions": 32, "max_target_positions": 64},
        speech,
    ),
    "swin": Family(
        "SwinModel",
        "SwinConfig",
        {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4},
        images,
    ),
    "siglip": Family(
        "SiglipModel",
        "SiglipConfig",
        {
            "text_config": ENCODER | {"max_position_embeddings": LENGTH},
            "vision_config": IMAGES | {"num_attention_heads": 4},
        },
        images_and_text,
    ),
}
