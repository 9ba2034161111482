"""The curves of a task's dashboard, from which scripts/wandb_dashboard.py makes a workspace and the report a figure."""

METRICS = {
    "deit": {"top-1 accuracy, %": "top1", "top-5 accuracy, %": "top5"},
    "lm": {"perplexity": r"(smoothed_)?ppl@\w+", "tokens without mass, %": "zero_targets"},
    "mt": {"BLEU, tokenised": "bleu", "BLEU, detokenised": "sacrebleu", "perplexity": "ppl"},
}
"""The metrics of each task by title, as regular expressions; the first is the one that the task is judged by."""

PARAMETERS = {
    f"{'t' if kind == 'ts' else 'r'}{index}": rf"^reweight/.*/{kind}\.{index}$"
    for kind in ("ts", "ranges")
    for index in range(4)
}
MEASURES = {
    f"{title}, {which}": pattern
    for title, kind in (("sparsity S", "sparsity"), ("multi-modality M", "multi_modality"))
    for which, pattern in (("mean over layers", f"^{kind}/mean$"), ("by layer", f"^{kind}/(?!mean$)"))
}


def curves(task: str) -> dict[str, dict[str, str]]:
    """By section and title of a panel, the regular expression of the keys of ``metrics.jsonl`` that it shows."""
    metrics = {title: f"^val/{name}$" for title, name in METRICS[task].items()}
    return {
        "Loss and metrics": {"training loss": "^train/loss$", "validation loss": "^val/loss$"} | metrics,
        "SegLU's parameters": PARAMETERS,
        "Sparsity and multi-modality": MEASURES,
    }
