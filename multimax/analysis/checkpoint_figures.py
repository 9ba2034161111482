"""Figures of a trained model: its attention layer by layer, the scores behind it, and how it learned to bend them."""

from collections.abc import Mapping, Sequence
from itertools import takewhile

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from multimax.analysis.attention_rows import MEASURES
from multimax.analysis.streaming import SCORE_EDGES, WEIGHT_EDGES, AttentionSite
from multimax.analysis.style import figure, style_of
from multimax.reweight import MultiMax

TITLES = {
    "sparsity": "sparsity S",
    "multi_modality": "multi-modality M",
    "entropy": "entropy, nats",
    "support": "weights above 0",
    "gini": "Gini index",
}
Row = dict[str, str]


def attention_figure(sites: Mapping[str, AttentionSite], function: str) -> tuple[Figure, list[Row]]:
    """Each measure by layer: a dot for each head, a bar for their mean; and a row for each layer and head."""
    style, names = style_of(function), list(sites)
    rows = [
        {"attention": name, "head": str(head)}
        | {key: f"{value:.5f}" for key, value in zip(MEASURES, values, strict=True)}
        | {"rows": f"{count:.0f}"}
        for name, site in sites.items()
        for head, (values, count) in enumerate(zip(site.means.T.tolist(), site.rows.amax(0).tolist(), strict=True))
    ]
    with figure(2.4 * len(MEASURES), 3.2) as drawing:
        for i, axes in enumerate(drawing.subplots(1, len(MEASURES))):
            for at, site in enumerate(sites.values()):
                heads = site.means[i].tolist()
                axes.plot([at] * len(heads), heads, style.marker, color=style.color, alpha=0.35, markersize=4)
            means = [float(site.means[i].nanmean()) for site in sites.values()]
            axes.plot(range(len(names)), means, "_", color=style.color, markersize=12, markeredgewidth=2)
            axes.set_title(TITLES[MEASURES[i]])
            axes.set_xticks(range(len(names)), short(names), rotation=90, fontsize=7)
        drawing.supxlabel(f"attention ({style.label}); a dot for each head", fontsize=9)
    return drawing, rows


def histogram_figure(sites: Mapping[str, AttentionSite]) -> tuple[Figure, list[Row]]:
    """Shares of scores and of weights in their bins, one line for each attention, dark ones first."""
    rows: list[Row] = []
    with figure(9, 3.6) as drawing:
        panels = drawing.subplots(1, 2)
        for name, site, color, label in zip(sites, sites.values(), colors(len(sites)), short(list(sites)), strict=True):
            for axes, kind, counts, edges, total in (
                (panels[0], "score", site.scores, SCORE_EDGES, site.scores.sum()),
                (panels[1], "log10 weight", site.weights, WEIGHT_EDGES, site.weights.sum() + site.tiny),
            ):
                if not total:
                    continue  # timm's own softmax keeps its scores to itself
                shares = (counts / total).tolist()
                axes.stairs(shares, edges.tolist(), color=color, label=label, linewidth=1.2)
                rows += [
                    {"attention": name, "of": kind, "from": f"{a:.2f}", "to": f"{b:.2f}", "share": f"{share:.6f}"}
                    for a, b, share in zip(edges.tolist(), edges[1:].tolist(), shares, strict=False)
                ]
            rows.append(
                {"attention": name, "of": "weight", "from": "0", "to": "1e-8"}
                | {"share": f"{site.tiny / float(site.weights.sum() + site.tiny):.6f}"}
            )
        panels[0].set_title("a  Scores")
        lowest, highest = spread(sites) or (-1.0, 1.0)
        panels[0].set_xlim(max(lowest, float(SCORE_EDGES[0])), min(highest, float(SCORE_EDGES[-1])))
        panels[0].set_xlabel("score")
        panels[0].set_ylabel("share")
        panels[1].set_title("b  Weights above 1e-8")
        panels[1].set_xlabel("logarithm of the weight, base 10")
        drawing.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", fontsize=7, title="attention")
    return drawing, rows


def modulators(model: nn.Module) -> dict[str, MultiMax]:
    """The MultiMax modules of a model by the name of their attention, or "output"."""
    return {
        name.removesuffix(".reweight"): module for name, module in model.named_modules() if isinstance(module, MultiMax)
    }


def modulator_figure(of: Mapping[str, MultiMax], sites: Mapping[str, AttentionSite]) -> tuple[Figure, list[Row]]:
    """What the learned SegLU of each attention adds to the scores that it met, and the output's to all of these."""
    rows: list[Row] = []
    lowest, highest = spread(sites) or (-1.0, 1.0)
    with figure(6.5, 4) as drawing:
        axes = drawing.subplots()
        axes.axhline(0, color="0.8", linewidth=1, zorder=0)
        color_of = dict(zip(sites, colors(len(sites)), strict=True))
        for (name, module), label in zip(of.items(), short(list(of)), strict=True):
            met = sites.get(name)
            x = torch.linspace(met.lowest if met else lowest, met.highest if met else highest, 201)
            for head, y in enumerate(curves(module, x)):
                line = {"color": color_of[name]} if met else {"color": style_of("multimax").color, "linestyle": "--"}
                axes.plot(x, y - x, **line, label=label if head == 0 else None)
                rows += [
                    {"attention": name, "head": str(head), "score": f"{a:.4f}", "modulated": f"{b:.4f}"}
                    for a, b in zip(x.tolist(), y.tolist(), strict=True)
                ]
        axes.set_xlabel("score")
        axes.set_ylabel("SegLU(score) - score")
        drawing.legend(loc="outside right upper", fontsize=7, title="attention")
    return drawing, rows


def spread(sites: Mapping[str, AttentionSite]) -> tuple[float, float] | None:
    """The least and the greatest score that was met; None where no attention shows its scores."""
    lowest, highest = min(site.lowest for site in sites.values()), max(site.highest for site in sites.values())
    return (lowest, highest) if lowest < highest else None


@torch.no_grad()
def curves(module: MultiMax, x: Tensor) -> Tensor:
    """Modulated scores [heads, n] of scores [n]; one row where all heads share their parameters."""
    device = module.ts.device
    return module.modulate(x.to(device).expand(module.num_heads, 1, -1))[:, 0].float().cpu()


def colors(count: int) -> list[tuple[float, float, float, float]]:
    """From dark to light, also for the colour-blind, and short of what is too light on white."""
    return [matplotlib.colormaps["cividis"](0.9 * i / max(1, count - 1)) for i in range(count)]


def short(names: Sequence[str]) -> list[str]:
    """Names of modules without the parts that all of them, "output" apart, begin and end with."""
    parts = {name: name.split(".") for name in names if name != "output"}
    several = list(parts.values()) if len(parts) > 1 else []
    first, last = in_common(several), in_common([part[::-1] for part in several])
    return [".".join(parts[name][first : len(parts[name]) - last]) if name in parts else name for name in names]


def in_common(several: Sequence[Sequence[str]]) -> int:
    """How many items all sequences begin with."""
    return sum(1 for _ in takewhile(lambda items: len(set(items)) == 1, zip(*several, strict=False)))
