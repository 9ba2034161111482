"""GPT-2 small of transformers and ViT-S of timm, converted, against the same models unconverted.

    python -m benchmarks.convert [--device cuda] [--models gpt2 vit] [--functions multimax ...] [--quick]

Unconverted, they run with fused and with written-out softmax. The first contestant is the model as
its library makes it, with ``F.scaled_dot_product_attention``. All contestants share their weights.
They run in float32 on a CPU, and in bfloat16 by autocast on a GPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import multimax
from benchmarks.bench import BOTH, FORWARD, Benchmark, program

TOKENS = {"cpu": 256, "cuda": 1024}  # of one text; 1024 is GPT-2's context
BATCH = {"cpu": {"gpt2": 1, "vit": 4}, "cuda": {"gpt2": 8, "vit": 128}}


def gpt2(quick: bool, fused: bool) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = {"n_embd": 32, "n_layer": 2, "n_head": 2} if quick else {}
    config = GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False, **small)
    return GPT2LMHeadModel._from_config(config, attn_implementation="sdpa" if fused else "eager")


def vit(quick: bool, fused: bool) -> nn.Module:
    import timm

    small = {"embed_dim": 32, "depth": 2, "num_heads": 2} if quick else {}
    model = timm.create_model("vit_small_patch16_224", **small)
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model


MODELS: dict[str, tuple[str, str, Callable[[bool, bool], nn.Module]]] = {
    "gpt2": ("GPT-2 small", "transformers", gpt2),
    "vit": ("ViT-S", "timm", vit),
}


def inputs_of(model: str, device: torch.device, quick: bool) -> tuple[Tensor, str]:
    batch = 1 if quick else BATCH[device.type][model]
    if model == "gpt2":
        length = 32 if quick else TOKENS[device.type]
        return torch.randint(50257, (batch, length), device=device), f"{batch}x{length} tokens"
    return torch.randn(batch, 3, 224, 224, device=device), f"{batch} images"


def run(benchmark: Benchmark) -> None:
    device = benchmark.device
    for key in benchmark.arguments.models:
        title, library, make = MODELS[key]
        try:
            stock = make(benchmark.quick, True).to(device)
        except ImportError as error:
            benchmark.leave_out(f"{title} needs {library} ({error})")
            continue
        contestants = {("softmax", "fused"): stock, ("softmax", "written out"): make(benchmark.quick, False)}
        for name in benchmark.arguments.functions:
            contestants[name, "converted"] = make(benchmark.quick, True)
            multimax.convert(contestants[name, "converted"], name)
        for model in contestants.values():
            model.to(device).load_state_dict(stock.state_dict(), strict=False, assign=True)
        inputs, case = inputs_of(key, device, benchmark.quick)
        units = inputs.numel() if key == "gpt2" else len(inputs)
        for direction in (FORWARD, BOTH):
            calls = [partial(step, model, inputs, direction) for model in contestants.values()]
            benchmark.measure(title, case, direction, list(contestants), calls, units=units)


def step(model: nn.Module, inputs: Tensor, direction: str) -> Any:
    half = inputs.device.type == "cuda"
    with torch.set_grad_enabled(direction == BOTH), torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
        output = model(inputs)
        scores = output if isinstance(output, Tensor) else output.logits
    if direction == BOTH:
        model.zero_grad()
        scores.float().square().mean().backward()


main = program("convert", __doc__, run, models={"nargs": "+", "default": list(MODELS), "choices": MODELS})

if __name__ == "__main__":
    main()
