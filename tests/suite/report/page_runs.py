"""Hand-made run folders for the page, without any training."""

import json
import math
from pathlib import Path

import yaml

NAUGHTY = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def make_run(
    folder: Path,
    function: str = "softmax",
    seed: int = 0,
    *,
    name: str | None = None,
    experiment: str | None = None,
    task: str = "deit",
    scale: str = "demo",
    description: str = "made up",
    steps: int = 1000,
    every: int = 50,
    finished: bool = True,
    level: float = 50.0,
    training: dict | None = None,
    **site,
) -> Path:
    """A run in its own folder, whose loss falls to about 1.

    Its score rises to ``level`` plus the seed.
    """
    config = {
        "task": task, "scale": scale, "experiment": experiment, "description": description, "seed": seed,
        "model": {"depth": 2}, "data": {"name": "digits", "source": "digits", "root": None},
        "training": {"steps": steps, "epochs": None} | (training or {}), "plugins": [],
        "reweight": {"attention": {"name": function, **site}, "output": {"name": "softmax"}},
    }  # fmt: skip
    run = folder / (name or f"{experiment or task}-{function}-seed{seed}")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    metric = {"deit": "top1", "lm": "ppl@32", "mt": "bleu"}[task]
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(every, steps + 1, every):
            share = step / steps
            loss = 1 + math.exp(-5 * share) + 0.01 * seed
            row = {"step": step, "epoch": step / 100, "train/loss": loss, "train/gradient_norm": 1 / loss}
            file.write(json.dumps(row) + "\n")
            if step % (10 * every) == 0:
                row = {"step": step, "epoch": step / 100, f"val/{metric}": (level + seed) * share, "val/loss": loss}
                file.write(json.dumps(row) + "\n")
    if finished:
        metrics = {metric: level + seed, "loss": 1.0} | ({"test_bleu@best": level + seed} if task == "mt" else {})
        summary = {
            "metrics": metrics, "metric": metric, "steps": steps, "parameters": {"total": 7, "attention": 0},
            "revision": "0" * 40, "config_hash": "cafecafe", "throughput": {"seconds": 2.0 * steps},
            "environment": {"python": "3.11", "torch": "2", "cpu": "made up", "threads": 1, "gpu": None},
            "command": f"python train.py task={task} scale={scale} reweight={function} seed={seed}",
            "finished": "2026-01-01T00:00:00+00:00",
        }  # fmt: skip
        (run / "summary.json").write_text(json.dumps(summary))
    return run


def make_runs(folder: Path, experiments: int = 2, seeds: int = 3, **options) -> None:
    """Runs of softmax, MultiMax and sparsemax with several seeds in each experiment.

    The experiments take the tasks in turn.
    """
    for number in range(experiments):
        for level, function in enumerate(("softmax", "multimax", "sparsemax")):
            for seed in range(seeds):
                task = ("deit", "lm", "mt")[number % 3]
                make_run(folder, function, seed, experiment=f"made_{number}", task=task, level=50.0 + level, **options)
