"""What ``multimax.convert`` changes in models of other libraries, as the table in docs/convert.md.

    python -m scripts.convert_table

tests/convert/test_families.py checks that each of these models still gives what it gave before, and that the table is
what this program prints.
"""

import importlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from multimax.convert.find import find
from multimax.convert.intercept import Intercepted

PAGE = Path(__file__).parent.parent / "docs" / "convert.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)
HEADER = "| library | model | converts | stays as it is |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Family:
    """A model as its library makes it, though small, and what it is called with."""

    library: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    masked: bool = False  # whether some keys are dead for some queries

    def build(self) -> nn.Module:
        """The model, without dropout, with weights for which attention is far from uniform and reaches the output."""
        torch.manual_seed(0)
        model = self.make().eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
            elif "bias" not in name:
                nn.init.ones_(parameter)
        for module in model.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, float) and ("drop" in name or isinstance(module, nn.Dropout)):
                    setattr(module, name, 0.0)
        return model

    def row(self, model: nn.Module) -> str:
        changed, left = Counter(), Counter()
        for site in find(model):
            kind = f"`{type(site.module).__name__}`"
            if isinstance(site.module, Intercepted) or site.obstacle is None:
                changed[kind] += 1
            else:
                left[f"{kind}: {site.obstacle}"] += 1
        columns = (", ".join(f"{count} {what}" for what, count in found.items()) for found in (changed, left))
        return f"| {self.library} | {self.name} | {' | '.join(columns)} |\n"


def _called(name: str, options: dict[str, Any]) -> str:
    return "".join((name, *(f", {option}={value}" for option, value in options.items())))


def _timm(name: str, size: int, masked: bool = False, **options: Any) -> Family:
    def make() -> nn.Module:
        import timm

        if "." in name:
            return getattr(importlib.import_module(f"timm.models.{name.split('.')[0]}"), name.split(".")[1])(**options)
        return timm.create_model(name, **options)

    return Family("timm", name, make, lambda: {"x": torch.randn(2, 3, size, size)}, masked)


def _torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=32, num_classes=5)


def _encoder(**options: Any) -> Family:
    """With padding. What torch puts in the padded places of the output does not matter, so they are not compared."""

    def inputs() -> dict[str, Any]:
        padded = torch.arange(7) >= torch.tensor([7, 4, 1])[:, None]
        return {"src": torch.randn(3, 7, 16), "src_key_padding_mask": padded}

    def make() -> nn.Module:
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options), 2)

    return Family("torch", _called("nn.TransformerEncoder", options), make, inputs, masked=True)


def _transformer() -> nn.Module:
    return nn.Transformer(16, 2, 1, 1, 32, batch_first=True)


def _source_and_target() -> dict[str, Any]:
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    return {"src": torch.randn(2, 6, 16), "tgt": torch.randn(2, 5, 16), "tgt_mask": causal, "tgt_is_causal": True}


def _x_transformers(**options: Any) -> Family:
    def make() -> nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        layers = Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **options)
        return TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=layers)

    def inputs() -> dict[str, Any]:
        return {"x": torch.randint(20, (2, 9)), "mask": torch.arange(9) < torch.tensor([9, 6])[:, None]}

    return Family("x-transformers", _called("Decoder", options), make, inputs, masked=True)


TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 64}
IMAGE = {**TEXT, "image_size": 16, "patch_size": 4}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**TEXT, **SPECIAL, "num_key_value_heads": 2, "head_dim": 8}
WINDOW = {**DECODER, "sliding_window": 4}
INDEXED = {
    **{**TEXT, **SPECIAL, "num_key_value_heads": 4, "first_k_dense_replace": 2, "n_routed_experts": 2, "n_group": 1},
    **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"index_topk": 3, "index_n_heads": 2, "index_head_dim": 16},
}
ENCODER_DECODER = {
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 1), ("ffn_dim", 32))},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{**SPECIAL, "d_model": 32, "vocab_size": 64, "decoder_start_token_id": 1, "forced_eos_token_id": None},
}


def _padded_text() -> dict[str, Any]:
    ids = torch.randint(3, 64, (2, 8))
    return {"input_ids": ids, "attention_mask": (torch.arange(8) >= torch.tensor([0, 3])[:, None]).long()}


def _transformers(name: str, options: dict[str, Any], inputs: str = "text", masked: bool = True) -> Family:
    """A model by the name of its class, from a configuration alone."""

    def make() -> nn.Module:
        import transformers

        model = getattr(transformers, name)
        return model(model.config_class(**options))

    def make_inputs() -> dict[str, Any]:
        made: dict[str, Any] = _padded_text() if inputs in ("text", "texts", "text and image") else {}
        if "image" in inputs:
            made["pixel_values"] = torch.randn(2, 3, 16, 16)
        if inputs == "audio":
            made["input_features"] = torch.randn(2, 8, 20)
        if inputs in ("texts", "audio"):
            made["decoder_input_ids"] = torch.randint(3, 64, (2, 5))
        return made

    return Family("transformers", name, make, make_inputs, masked)


FAMILIES = [
    _transformers("GPT2LMHeadModel", {**SPECIAL, "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}),
    _transformers("LlamaForCausalLM", DECODER),
    _transformers("MistralForCausalLM", WINDOW),
    _transformers("Gemma2ForCausalLM", {**WINDOW, "query_pre_attn_scalar": 8}),
    _transformers("Gemma3ForCausalLM", {**WINDOW, "query_pre_attn_scalar": 8}),
    _transformers("Qwen3ForCausalLM", DECODER),
    _transformers("GptOssForCausalLM", {**WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1}),
    _transformers("DeepseekV32ForCausalLM", INDEXED),
    _transformers("BertModel", TEXT),
    _transformers("RobertaModel", {**TEXT, **SPECIAL}),
    _transformers("ViTModel", IMAGE, "image", masked=False),
    _transformers(
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 64},
        "texts",
    ),
    _transformers("BartForConditionalGeneration", ENCODER_DECODER, "texts"),
    _transformers("MarianMTModel", ENCODER_DECODER, "texts"),
    _transformers(
        "WhisperForConditionalGeneration",
        {**ENCODER_DECODER, "num_mel_bins": 8, "max_source_positions": 10},
        "audio",
    ),
    _transformers(
        "SwinModel",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2), "window_size": 4},
        "image",
    ),
    _transformers(
        "ModernBertModel",
        {**TEXT, **SPECIAL, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 2},
    ),
    _transformers(
        "SiglipModel",
        {"text_config": {**TEXT, **SPECIAL, "max_position_embeddings": 16}, "vision_config": IMAGE},
        "text and image",
    ),
    _transformers("FalconForCausalLM", {**TEXT, **SPECIAL}),
    _transformers("BloomForCausalLM", {**SPECIAL, "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}),
    _transformers("DebertaV2Model", {**TEXT, "relative_attention": True}),
    _encoder(),
    _encoder(norm_first=True),
    Family("torch", "nn.Transformer", _transformer, _source_and_target, masked=True),
    Family("torchvision", "VisionTransformer", _torchvision, lambda: {"x": torch.randn(2, 3, 32, 32)}),
    _x_transformers(),
    _x_transformers(attn_flash=True),
    _x_transformers(alibi_pos_bias=True, alibi_num_heads=2),
    _x_transformers(attn_sparse_topk=2),
    _timm("vit_tiny_patch16_224", 32, img_size=32, depth=2, embed_dim=32, num_heads=2),
    _timm("eva02_tiny_patch14_224", 28, img_size=28, depth=2, embed_dim=32, num_heads=2),
    _timm("vit_small_patch16_dinov3", 32, img_size=32, depth=2, embed_dim=64, num_heads=2),
    _timm("beit_base_patch16_224", 32, img_size=32, depth=2, embed_dim=32, num_heads=2),
    _timm("swin_tiny_patch4_window7_224", 56, True, img_size=56, depths=(2, 2), embed_dim=16, num_heads=(1, 2)),
    _timm("hiera_tiny_224", 64, img_size=64, stages=(1, 1, 2, 1), embed_dim=16),
    _timm("xcit_nano_12_p16_224", 32, img_size=32, depth=2, embed_dim=32, num_heads=2, cls_attn_layers=1),
    _timm("maxvit_rmlp_pico_rw_256", 64, img_size=64, embed_dim=(32, 32, 32, 32), depths=(1, 1, 1, 1), stem_width=16),
    _timm("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    _timm("twins_svt_small", 64, img_size=64, depths=(1, 1, 2, 1), embed_dims=(16, 32, 32, 32)),
    _timm("nest.Nest", 32, img_size=32, num_levels=2, embed_dims=(16, 32), num_heads=(2, 2), depths=(1, 1)),
    _timm("tiny_vit.TinyVit", 64, embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)),
    _timm("davit_tiny", 64, embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)),
    _timm("volo.VOLO", 64, img_size=64, layers=(1, 1, 1, 1), embed_dims=(16, 32, 32, 32), num_heads=(2, 2, 2, 2)),
    _timm("cait_xxs24_224", 32, img_size=32, depth=1, embed_dim=32, num_heads=2),
    _timm("swinv2_tiny_window8_256", 64, img_size=64, depths=(1, 1), embed_dim=16, num_heads=(1, 2)),
    _timm("mvitv2_tiny", 64, img_size=64),
    _timm("levit_128s", 64, embed_dim=(16, 16, 16), depth=(1, 1, 1)),
]


def main() -> None:
    rows = (family.row(family.build()) for family in FAMILIES)
    PAGE.write_text(TABLE.sub(lambda _: HEADER + "".join(rows), PAGE.read_text()))


if __name__ == "__main__":
    main()
