"""Training steps of the paper's three models with each function, against softmax.

    python -m benchmarks.training_steps [--device cuda] [--models deit lm mt] [--functions multimax ...] [--quick]

A step is forward, backward and optimiser. Models and optimisers are those of ``scale=paper`` (with
``--quick``, ``scale=demo``) on random batches, which need no data: DeiT-S, Transformer-XL base and
the IWSLT14 model. On a GPU a step is in bfloat16, compiled and replayed from CUDA graphs
(``training.cuda_graphs``), so that it does not measure a slow host's launches. Several in a row
are timed, since in training the host runs ahead of the device. On a CPU a step is in float32 on a
batch that takes seconds.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench import Benchmark, program
from multimax.suite.config import RunConfig

VOCABULARY = {"lm": 267_735, "mt": 10_000}
BATCH = {"cpu": {"deit": 8, "lm": 2, "mt": 8}, "cuda": {"deit": 256, "lm": 60, "mt": 128}}  # images, rows, sentences
SENTENCE = 32  # tokens
IN_A_ROW = {"cpu": 1, "cuda": 4}

Loss = Callable[[], Tensor]


def image_classifier(config: Any, batch: int, device: torch.device) -> tuple[nn.Module, Loss, int]:
    from multimax.suite.tasks.image_classification import build_model

    model = build_model(config, config.data.num_classes).to(device)
    images = torch.randn(batch, config.data.in_chans, *2 * [config.data.image_size], device=device)
    targets = torch.randint(config.data.num_classes, (batch,), device=device)
    return model, lambda: model(images, targets), batch


def language_model(config: Any, batch: int, device: torch.device) -> tuple[nn.Module, Loss, int]:
    """On a segment with a full memory; the frequencies of words follow Zipf's law."""
    from multimax.suite.models.language_model import MODELS as LANGUAGE_MODELS

    cutoffs, length = config.model.cutoffs, config.model.segment_length
    num_tokens = VOCABULARY["lm"] if cutoffs else 1000
    sites = config.reweight
    kind = LANGUAGE_MODELS.find("model.name", config.model.name)
    model = kind(config.model, sites.attention, sites.output, num_tokens).to(device)
    frequencies = torch.arange(1, num_tokens + 1, dtype=torch.float64).reciprocal()
    tokens, targets, before = (
        torch.multinomial(frequencies, 3 * batch * length, replacement=True).to(device).view(3, batch, length)
    )
    with torch.no_grad():
        _, memory = model.encode(before)
    return model, lambda: model(tokens, targets, memory)[0], targets.numel()


def translator(config: Any, batch: int, device: torch.device) -> tuple[nn.Module, Loss, int]:
    from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder

    sites, num_tokens = config.reweight, VOCABULARY["mt"]
    kinds = AttentionSites(*(site or sites.attention for site in (sites.encoder, sites.decoder, sites.cross)))
    model = EncoderDecoder(config.model, kinds, sites.output, num_tokens, num_tokens).to(device)
    source, target, targets = torch.randint(4, num_tokens, (3, batch, SENTENCE), device=device)
    smoothing = config.training.label_smoothing
    mask = torch.ones_like(source, dtype=torch.bool)
    return model, lambda: model(source, mask, target, targets, smoothing), targets.numel()


MODELS: dict[str, tuple[str, Callable[..., tuple[nn.Module, Loss, int]]]] = {
    "deit": ("DeiT-S", image_classifier),
    "lm": ("Transformer-XL base", language_model),
    "mt": ("IWSLT14 model", translator),
}


def training_step(
    config: RunConfig, weights: dict[str, Any], device: torch.device, quick: bool
) -> tuple[Callable[[], None], int]:
    """IN_A_ROW steps as the trainer takes them, and the number of images or target tokens in one.

    Models share ``weights``, which the first one fills, so that several large ones fit into memory.
    """
    from multimax import clip_gradients
    from multimax.suite.engine.optimizers import create_optimizer

    torch.manual_seed(0)
    batch = 2 if quick else BATCH[device.type][config.task]
    model, loss, units = MODELS[config.task][1](config, batch, device)
    model.load_state_dict(weights, strict=False, assign=True)
    weights |= {name: tensor for name, tensor in model.state_dict().items() if name not in weights}
    optimizer = create_optimizer(model, config.optimizer)
    if device.type == "cuda":
        model.compile(mode="reduce-overhead")

    def steps() -> None:
        for _ in range(IN_A_ROW[device.type]):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                total = loss()
            (total / units).backward()
            clip_gradients(model, config.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

    return steps, units


def run(benchmark: Benchmark) -> None:
    try:
        from multimax.suite.composition import compose_configuration, typed
    except ImportError as error:
        benchmark.leave_out(f"models need the extra train: pip install -e '.[train]' ({error})")
        return
    device, quick = benchmark.device, benchmark.quick
    names = sorted(benchmark.arguments.functions, key=lambda name: name != "softmax")
    for task in benchmark.arguments.models:
        steps: dict[str, Callable[[], None]] = {}
        weights: dict[str, Any] = {}
        units = 0
        for name in names:
            overrides = [f"task={task}", f"scale={'demo' if quick else 'paper'}", f"reweight={name}"]
            steps[name], units = training_step(typed(compose_configuration(overrides)), weights, device, quick)
        way = "compiled, CUDA graphs" if device.type == "cuda" else "ours"
        case = f"{units} {'images' if task == 'deit' else 'tokens'}"
        pairs = [(name, way) for name in names]
        calls, in_a_row = list(steps.values()), IN_A_ROW[device.type]
        benchmark.measure(MODELS[task][0], case, "training step", pairs, calls, units=units, in_a_row=in_a_row)


main = program("training_steps", __doc__, run, models={"nargs": "+", "default": list(MODELS), "choices": MODELS})

if __name__ == "__main__":
    main()
