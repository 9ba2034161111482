"""python -m multimax.suite.figures alignment and heads: the words that translation and language models look at."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multimax.suite.engine.open import OpenRun
from multimax.suite.errors import UserError
from multimax.suite.figures.commands import chosen, compare, parse, runs_parser
from multimax.suite.figures.panels import panel
from multimax.suite.measures.attention_maps import record_attention
from multimax.suite.models.encoder_decoder import END

LONGEST = 60  # most tokens that can be labelled in a figure


@torch.no_grad()
def alignment(arguments: Sequence[str]) -> None:
    """Attention of each word of a translation to the source, by layer.

    Runs of task=mt are shown side by side. A row belongs to the decoder state that predicts its
    word from the words before it.
    """
    parser = runs_parser(alignment)
    parser.add_argument("--source", required=True, metavar="TEXT", help="sentence to translate")
    parser.add_argument("--target", metavar="TEXT", help="its translation; default: that of each run's beam search")
    parser.add_argument("--layer", help="number from 0: the heads of that layer, not the mean of each layer")
    parsed = parse(parser, arguments)

    def find(run: OpenRun) -> dict[str, Any]:
        task, device = run.task, run.device
        source = readable(task.encode(parsed.source, "--source"), "--source")[None].to(device)
        live = torch.ones_like(source, dtype=torch.bool)
        with run.autocast():
            if parsed.target is None:
                (found,) = task.search(run.model, source, live)
                target = torch.tensor(found)
            else:
                target = readable(task.encode(parsed.target, "--target", target=True), "--target")
            before = torch.cat([target.new_tensor([END]), target[:-1]])[None].to(device)
            with record_attention(run.model) as recorded:
                run.model.decode(before, run.model.encode(source, live), live)
        layers = [recorded[f"decoder.{i}.cross_attention.branch"][0][0].float() for i in range(len(run.model.decoder))]
        if parsed.layer is None:
            panels = [panel(f"layer {i}", weights.mean(0)) for i, weights in enumerate(layers)]
        else:
            (layer,) = chosen(parsed.layer, "--layer", "layers", len(layers), run)
            panels = [panel(f"layer {layer}, head {i}", weights) for i, weights in enumerate(layers[layer])]
        return {
            "input": [parsed.source, parsed.target],
            "keys": [task.bitext.source_dictionary.tokens[i] for i in source[0]],
            "queries": [task.bitext.target_dictionary.tokens[i] for i in target],
            "rows": [{"label": "", "panels": panels}],
        }

    compare(parsed, "mt", "alignment", find)


@torch.no_grad()
def heads(arguments: Sequence[str]) -> None:
    """Attention of each token of a text to those up to it, by layer and head.

    Runs of task=lm are shown side by side.
    """
    parser = runs_parser(heads)
    parser.add_argument("--text", required=True, metavar="TEXT")
    parser.add_argument("--layers", help="numbers from 0, such as 0,4,9; default: all")
    parsed = parse(parser, arguments)

    def find(run: OpenRun) -> dict[str, Any]:
        vocabulary = run.task.corpus.vocabulary
        tokens = readable(torch.tensor(vocabulary.encode(parsed.text)), "--text", ends=0)
        with record_attention(run.model) as recorded, run.autocast():
            run.model.encode(tokens[None].to(run.device))
        layers = [weights[0].float() for (weights,) in recorded.values()]
        names = [vocabulary.tokens[i] for i in tokens]
        rows = [
            {"label": f"layer {i}", "panels": [panel(f"head {h}", weights) for h, weights in enumerate(layers[i])]}
            for i in chosen(parsed.layers, "--layers", "layers", len(layers), run)
        ]
        return {"input": parsed.text, "keys": names, "queries": names, "rows": rows}

    compare(parsed, "lm", "heads", find)


def readable(ids: Tensor, option: str, ends: int = 1) -> Tensor:
    """Return ``ids``, of which ``ends`` are end tokens.

    Raises UserError if there are no others, or too many to label in a figure.
    """
    if len(ids) <= ends:
        raise UserError(f"{option} has no word in it")
    if len(ids) > LONGEST:
        raise UserError(f"{option} has {len(ids)} tokens, too many to be read in a picture: at most {LONGEST}")
    return ids
