"""A fairseq checkpoint as a run folder, which ``evaluate.py`` scores and translates with."""

import json
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from multimax.integrations.fairseq.sites import read_site
from multimax.suite.composition import CONFIGS, register_groups, typed
from multimax.suite.engine import checkpoint
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.errors import Parser, UserError, one_line_errors
from multimax.suite.fairseq.weights import from_fairseq
from multimax.suite.tasks import task_module

# Options of fairseq's transformer that ours lacks and that no tensor shows.
ONLY = {"activation_fn": "relu", "no_scale_embedding": False, "no_token_positional_embeddings": False}
ALIKE = ("attention_heads", "normalize_before", "embed_dim", "ffn_embed_dim")  # of encoder and decoder


def convert(path: Path, data: Path, run: Path) -> None:
    """Write the run folder ``run`` with the encoder-decoder in a checkpoint of fairseq.

    Args:
        path: checkpoint of fairseq's ``transformer`` or of ``multimax_transformer``.
        data: the folder of ``fairseq-preprocess`` that it was trained on.
        run: must not exist.

    Raises:
        UserError: no such checkpoint, one of another model, or other data.
    """
    if run.exists():
        raise UserError(f"{run} exists: name a new run folder")
    try:
        with torch.serialization.safe_globals([Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
        arguments, task, weights = state["cfg"]["model"], state["cfg"]["task"], state["model"]
        steps = state["optimizer_history"][-1]["num_updates"]
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} is not a checkpoint of fairseq 0.12: {' '.join(str(error).split())[:150]}") from None
    if not hasattr(arguments, "encoder_attention_heads"):
        raise UserError(f"{path} is not a checkpoint of fairseq's transformer")
    other = [name for name, value in ONLY.items() if getattr(arguments, name, None) != value]
    encoder, decoder = (
        [getattr(arguments, f"{side}_{name}", None) for name in ALIKE] for side in ("encoder", "decoder")
    )
    other += [name for name, one, two in zip(ALIKE, encoder, decoder, strict=True) if one != two]
    if other:
        raise UserError(f"{path} is of a transformer that ours is not: see its {', '.join(other)}")
    named = next((path.name.split(".")[1].split("-") for path in data.glob("train.*-*.*.idx")), None)
    if named is None:
        raise UserError(
            f"{data} is not a folder of fairseq-preprocess: there is no train.SOURCE-TARGET.SOURCE.idx in it"
        )
    # Data of de-en are for training in either direction.
    task = vars(task) if isinstance(task, Namespace) else task
    languages = [task.get("source_lang") or named[0], task.get("target_lang") or named[1]]
    register_groups()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = typed(compose("config", overrides=overrides(arguments, languages, data)))
    translation = task_module("mt").create(config)
    model = translation.build_model()
    from_fairseq(model, weights)
    writer = RunWriter(run, config)
    writer.open(translation.fingerprint)
    checkpoint.save(writer.run.checkpoints, steps, model, None, {}, None)


def overrides(arguments: Any, languages: list[str], data: Path) -> list[str]:
    """What makes our configuration that of a fairseq model's ``arguments``."""
    sizes = {
        "encoder_depth": arguments.encoder_layers,
        "decoder_depth": arguments.decoder_layers,
        "dim": arguments.encoder_embed_dim,
        "num_heads": arguments.encoder_attention_heads,
        "ffn_dim": arguments.encoder_ffn_embed_dim,
        "dropout": arguments.dropout,
        "attention_dropout": arguments.attention_dropout,
        "activation_dropout": arguments.activation_dropout,
        "pre_norm": arguments.encoder_normalize_before,
        "share_embeddings": "all" if arguments.share_all_embeddings else "decoder",
        "max_length": max(arguments.max_source_positions, arguments.max_target_positions),
    }
    if not hasattr(arguments, "reweight"):  # fairseq's own
        arguments.reweight = "softmax"
    try:
        sites = {part: read_site(arguments, part) for part in ("encoder", "decoder", "cross", "output")}
    except ValueError as error:
        raise UserError(f"the checkpoint's functions are not known here: {error}") from None
    chosen = ["reweight=softmax"]
    for part, site in sites.items():
        chosen.append(f"reweight/{part}={site['name']}")
        chosen += [f"reweight.{part}.{option}={value}" for option, value in site.items() if option != "name"]
    return [
        "task=mt",
        "scale=paper",
        *chosen,
        *(f"model.{key}={value}" for key, value in sizes.items()),
        f"data.source_language={languages[0]}",
        f"data.target_language={languages[1]}",
        f"data.root={json.dumps(str(data.resolve()))}",
    ]


@one_line_errors
def main() -> None:
    """Make a run folder, which evaluate.py scores and translates with, of a checkpoint of fairseq."""
    parser = Parser(prog="python -m multimax.suite.fairseq", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="of fairseq's transformer or of multimax_transformer")
    parser.add_argument("data", type=Path, help="folder of fairseq-preprocess that it was trained on")
    parser.add_argument("run", type=Path, help="run folder to make")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.data, arguments.run)


if __name__ == "__main__":
    main()
